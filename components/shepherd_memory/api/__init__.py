"""The HTTP door: routes over `Memory`, and who may use them.

app.py          the public application, served with its OpenAPI document
admin.py        the operator's application, on another port
access.py       from a credential to the memory of its tenant; rates, audit
models.py       what requests and answers look like
problems.py     what is said of wrong requests (RFC 9457)
conditional.py  ETags, and writes that are done once per key
limits.py       how large, how long, for which host
sessions.py recall.py facts.py notices.py whole.py mcp_door.py    the routes
"""
