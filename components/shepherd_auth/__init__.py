"""Who is asking, and what they may do: the one place where a credential becomes a tenant.

    Authorization: Bearer shp_...   api_keys.py   a key from the key file    \
    Authorization: Bearer eyJ...    tokens.py     a JWT, by a local JWKS      > Identity
    neither is set up               loopback only: the tenant `local`        /

Knows nothing of HTTP frameworks, memories and workers, so that every door of
the system uses the same code.  A tenant never comes from a request's body, and
a header can narrow what a credential allows but never widen it.
"""
