"""Where turns are kept: one store per tenant, behind one Protocol."""
