"""What the doctor checks of a model: its files, its tokenizer, and whether its template can be read."""

from __future__ import annotations

from pathlib import Path

from shepherd_cli.doctor import Finding, Patient, fail, ok, warn
from shepherd_cli.doctor_machine import Machine
from shepherd_events.tokenizer_assets import TokenizerAssets, TokenizerNotFoundError
from shepherd_events.transcript import TranscriptReader


def check_model(machine: Machine, patient: Patient) -> Finding:
    """The files of the model, each one whole."""
    del machine
    if not patient.model:
        return ok("model", "none asked for")
    from shepherd_worker.engine.embedded.weights import find_weights  # noqa: PLC0415  needs an extra
    from shepherd_worker.engine.trtllm.model import holds_engines  # noqa: PLC0415  as above
    from shepherd_worker.errors import StartError  # noqa: PLC0415  as above

    directory = Path(patient.model).expanduser()
    if not directory.is_dir():
        return warn(
            "model", f"{patient.model} is no directory", "a hub id is looked up at the start"
        )
    if holds_engines(patient.model):
        fix = "TensorRT-LLM runs them up to 1.3.0rc20 only: name the Hugging Face model instead"
        return warn("model", "built TensorRT engines", fix)
    try:
        weights = find_weights(directory)
    except StartError as error:
        return fail("model", str(error), "download it again")
    return ok(
        "model", f"{len(weights)} file(s), {sum(w.num_bytes for w in weights) / 2**30:.1f} GiB"
    )


def check_template(machine: Machine, patient: Patient) -> Finding:
    """Whether prompts can be read back into messages, which memory lives on."""
    del machine
    if not patient.model or not Path(patient.model).expanduser().is_dir():
        return ok("template", "no model directory asked for")
    try:
        assets = TokenizerAssets.from_directory(Path(patient.model).expanduser())
    except TokenizerNotFoundError as error:
        return fail("template", str(error), "name the tokenizer's directory with --tokenizer")
    if not TranscriptReader(assets).understands_template:
        return warn("template", "not understood", "turns are served; memory keeps them as raw text")
    return ok("template", "tokenizer and chat template can be read")
