"""Records of one worker, fetched by another: KV blocks, or any bytes.

    service.py                       what an engine sees: lease, fetch, counters
      loop_thread.py                 one thread with an event loop of its own
      server.py     leases.py        the side that has the records
      client.py     staging.py       the side that wants them
      tcp.py  shm.py  nixl.py        three ways from one to the other
      connection.py frames.py handshake.py

A *lease* keeps records where they are until they are fetched, once, or until its
time is over; a *ticket* (`protocol.Ticket`) says where to fetch them.  Nothing
here interprets records, and no failure here is a client's error: what cannot be
fetched is computed.  Nothing outside knows sockets.
"""
