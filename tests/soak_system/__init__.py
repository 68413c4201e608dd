"""The whole system under its supervisor, conversations that go on, and everything that can happen.

    python -m soak_system --minutes 30      (with tests/ on the path; or: make soak-system MINUTES=30)

Clients talk to the gateway as any client would and write down what they saw.  Chance, from
a seed, kills, freezes and cuts off processes meanwhile; the supervisor starts them again.
After each round everything heals, and the streams must be read to their ends.  In the
end what the memory holds must be what the clients saw: no turn lost, none twice, none other.
"""
