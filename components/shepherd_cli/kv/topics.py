"""`shepherd kv help TOPIC`."""

from __future__ import annotations

TOPICS = {
    "addresses": """\
Where streams are

Without an address a command means every stream that Dynamo's discovery shows:
--namespace, --component and --discovery-backend, or DYN_NAMESPACE and
DYN_DISCOVERY_BACKEND, say where. With --discovery-backend file, DYN_FILE_KV
names the directory.

An address is one stream, without discovery:

  tcp://HOST:PORT                     the live endpoint; the next heartbeat tells the rest
  tcp://HOST:PORT?control=PORT&worker=ID&rank=N
  nats://HOST:PORT/kv.v1.WORKER.RANK  a stream at a NATS broker

stats, snapshot and diff also take the name of a worker, or WORKER/RANK.
Beyond loopback ZMQ needs --curve-file and --curve-server, NATS --tls and --nkey-file.
""",
    "filters": """\
What to show

  --type     stored removed reused cleared turn notice info goodbye
  --tier     device host disk shared remote
  --worker --session --tenant

Each may be repeated; values of one option are alternatives, options add up. A
session's blocks are those that it stored or reused, and its removals are those
of its blocks, whoever caused them. Of blocks that were stored before tail
began it knows nothing: add --from-start. Resets are always shown.
""",
    "formats": """\
What a line looks like

The text for people may change; --json and --format do not. --json prints one
object a line, without what is empty. --format takes Python's format language:

  shepherd kv tail --format '{time} {op:<8} {blocks:>4} {hashes}'

Fields: time ts_unix_ns worker rank epoch seq op tier blocks tokens hashes
parent start session tenant request turn detail token_ids

Token ids are empty without --tokens.
""",
    "recordings": """\
Recordings

record writes what the streams say, checked byte by byte, until Ctrl-C. A file
that was not closed, after a kill or on a full disk, is read up to its last whole
item. replay publishes it anew, as streams with replay, snapshots and
heartbeats of their own, and prints their URLs:

  shepherd kv record day.kv
  shepherd kv replay day.kv --speed 10 --stay
  shepherd kv replay day.kv --to nats://127.0.0.1:4222 --speed max
  shepherd kv stats day.kv

A recording holds what its reader saw: token ids too, where workers send them in
clear or --keys-file opens them. Only you can read the file.
""",
    "bridge": """\
Other systems' publishers

bridge reads the KV events of vLLM, SGLang or Dynamo's TensorRT-LLM worker and
publishes them as streams with replay, snapshots and heartbeats, which every
other command, and the memory service's readers, take for a worker's:

  shepherd kv bridge tcp://127.0.0.1:5557 --replay tcp://127.0.0.1:5558
  shepherd kv bridge tcp://127.0.0.1:5557 --format sglang --model Qwen/Qwen3-8B \\
      --publish nats://127.0.0.1:4222

The source stands first; each stream's URL is printed when it begins, with
--block-size N at once. Blocks are hashed anew from their tokens, so that streams
of one --model can be compared. Whenever something may have been missed that no
replay brings back, all blocks are declared gone and come back as they are stored
anew: a stream tells too little at times, never too much.

shepherd kv bridge --help lists the options; variables are SHEPHERD_..., the
file's section is [bridge]. --metrics-port shows what was left out and why.
""",
    "exit-codes": """\
Exit codes

  0  done; also after Ctrl-C, and when the reader of a pipe goes away
  1  diff: the sides differ
  2  wrong usage
  3  a file that cannot be used
  4  nobody there, or not with these credentials
""",
}
