"""What the model can do, measured on names, facts and wordings that training never uses.

cases.py      questions with what a right answer is
scores.py     asks, judges, counts
answers.py    greedy answers of a model directory, by transformers
"""
