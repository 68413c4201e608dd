"""The memory's web page: what caches hold, what was evicted, what came back.

app.py          the application that is mounted under /ui, and its refusals as pages
sign_in.py      API keys that a cookie stands for
forms.py        what browsers submit, and that it was submitted from here
headers.py      what a browser may do with a page
timeline.py     a turn as it is shown; pure
excerpts.py     the part of a text that was asked for; pure
rendering.py    templates to pages
views.py changes.py sign_in_pages.py live.py    the routes

Pages are made here and work without a script; the one script keeps them current.
"""
