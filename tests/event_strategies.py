"""Hypothesis strategies for what travels on a stream."""

from __future__ import annotations

from array import array

from hypothesis import strategies as st

from shepherd_events.events import (
    Attribution,
    BlockBatch,
    BlockHash,
    BlocksCleared,
    BlocksRemoved,
    BlocksReused,
    BlocksStored,
    CacheContext,
    Frame,
    Goodbye,
    Heartbeat,
    MediaKey,
    MediaSpan,
    Notice,
    SealedTokens,
    StreamId,
    StreamInfo,
    Tier,
    TierState,
    Tombstone,
    TurnCompleted,
)

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
HASH = st.integers(1, 2**64 - 1).map(BlockHash)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
TIER = st.sampled_from(Tier)

contexts = st.builds(
    CacheContext, lora_name=TEXT, cache_salt_id=st.binary(max_size=8), model=TEXT
) | st.just(CacheContext())
attributions = st.builds(Attribution, request_id=TEXT, session_id=TEXT, tenant=TEXT, turn=U32)
origins = st.none() | attributions | st.just(Attribution("r1", "s1", "t1", 1))
hash_columns = st.lists(HASH, max_size=5).map(lambda values: array("Q", values))
parents = st.none() | HASH
groups = st.just(0) | U32
media_spans = st.builds(
    MediaSpan, digest=st.binary(max_size=4), offset=U32, length=U32, modality=TEXT
)


sealed = st.builds(SealedTokens, st.binary(max_size=8), st.binary(max_size=24), st.binary())


@st.composite
def stored_runs(draw: st.DrawFn) -> BlocksStored:
    hashes = draw(hash_columns)
    num_tokens = len(hashes) * draw(st.integers(0, 4))
    tokens = draw(st.lists(U32, min_size=num_tokens, max_size=num_tokens))
    places = (
        sorted(draw(st.lists(st.sampled_from(range(len(hashes))), max_size=3))) if hashes else []
    )
    return BlocksStored(
        block_hashes=hashes,
        parent_hash=draw(parents),
        token_ids=array("I", tokens),
        start_block=draw(U32),
        tier=draw(TIER),
        context=draw(contexts),
        origin=draw(origins),
        group=draw(groups),
        media=tuple(MediaKey(place, draw(media_spans)) for place in places),
        sealed=draw(st.none() | sealed),
    )


block_events = st.one_of(
    stored_runs(),
    st.builds(BlocksReused, hash_columns, parents, U32, TIER, contexts, origins, groups),
    st.builds(BlocksRemoved, hash_columns, TIER, origins, groups),
    st.builds(BlocksCleared, st.none() | TIER),
)
batches = st.builds(BlockBatch, st.lists(block_events, max_size=6).map(tuple))
turns = st.builds(
    TurnCompleted,
    origin=attributions,
    prompt_tokens=U32,
    cached_tokens=U32,
    generated_tokens=U32,
    last_block_hash=parents,
    num_full_blocks=U32,
    tail_token_ids=st.lists(U32, max_size=5).map(lambda values: array("I", values)),
    finish_reason=TEXT,
    started_unix_ns=U64,
    context=contexts,
    parent_session_id=TEXT,
    session_final=st.booleans(),
    sealed_tail=st.none() | sealed,
    withheld=st.booleans(),
)
notices = st.builds(
    Notice,
    notice_id=TEXT,
    tenant=TEXT,
    session_id=TEXT,
    turns=st.lists(U32, max_size=3).map(tuple),
    archive_ids=st.lists(TEXT, max_size=3).map(tuple),
    topic=TEXT,
    text=TEXT,
    created_unix_ns=U64,
)
tier_states = st.lists(st.builds(TierState, TIER, U64, U64), max_size=3).map(tuple)
infos = st.builds(
    StreamInfo,
    model=TEXT,
    block_size=U32,
    hash_algo=TEXT,
    hash_seed_id=st.binary(max_size=8),
    dp_size=U32,
    replay_capacity=U64,
    replay_endpoint=TEXT,
    tiers=st.lists(TIER, max_size=3).map(tuple),
    tokens_included=st.booleans(),
    previous_epoch=U64,
    previous_head_seq=U64,
    heartbeat_ms=U32,
    engine=TEXT,
    engine_version=TEXT,
    schema_minor=U32,
    privacy=TEXT.filter(bool),
)


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    """Any frame; a body that repeats its frame's number repeats it."""
    seq = draw(st.integers(1, 2**64 - 1))
    body = draw(
        st.one_of(
            batches,
            turns,
            notices,
            st.builds(Goodbye, TEXT),
            st.builds(Heartbeat, st.just(seq), U64, tier_states, U64, TEXT),
            st.builds(Tombstone, st.integers(1, seq), st.just(seq), TEXT),
            infos,
        )
    )
    return Frame(
        stream=StreamId(draw(TEXT.filter(bool)), draw(U32)),
        epoch=draw(st.integers(1, 2**64 - 1)),
        seq=1 if isinstance(body, StreamInfo) else seq,
        ts_unix_ns=draw(U64),
        body=body,
    )
