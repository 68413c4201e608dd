"""Pictures that a client names: fetched without harm, decoded without harm.

policy.py     what may be fetched, and from where
resolver.py   names to addresses that are allowed
fetch.py      URL to bytes
decode.py     bytes to pixels
loading.py    URLs to images that a model can be given
"""
