"""Conversations to learn from and to be judged by, made from tables and a seed.

words.py        values and subjects, in train or held-out
relations.py    kinds of facts: how they are told, asked, said
phrasing.py     sentences
small_talk.py   everything that is no fact
recall.py       notices, searches, tool results
conversations.py  whole conversations; the generator
"""
