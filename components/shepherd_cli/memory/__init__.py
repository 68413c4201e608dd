"""`shepherd memory`: ask a memory service, and run it.

Data goes to stdout, talk to stderr.  Exit codes: 0 done, 1 refused or not there,
2 wrong usage, 3 a file that cannot be used, 4 nobody answers or the credential
is not accepted.
"""
