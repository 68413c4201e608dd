"""What no file of ours may do, whoever writes it: each rule with a sample that it must find."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for top in ("components", "benchmarks", "scripts", "examples")
    for path in (ROOT / top).rglob("*.py")
    if not path.name.endswith("_pb2.py")
)
_RUNS_CODE = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
"""Whoever writes what these read runs code in the reader."""
_WILDCARDS = {"0.0.0.0", "::", "[::]", "*"}


def _dotted(node: ast.expr) -> str:
    """`a.b.c` as text; of anything but names, what can be told of its end."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=name):
            return f"{_dotted(value)}.{name}"
        case _:
            return ""


def _keyword(call: ast.Call, name: str) -> object:
    """A keyword's constant; None where there is none."""
    return next(
        (
            k.value.value
            for k in call.keywords
            if k.arg == name and isinstance(k.value, ast.Constant)
        ),
        None,
    )


def imports_what_runs_code(node: ast.AST) -> bool:
    match node:
        case ast.Import(names=names):
            return any(alias.name.partition(".")[0] in _RUNS_CODE for alias in names)
        case ast.ImportFrom(module=str(module)):
            return module.partition(".")[0] in _RUNS_CODE
        case _:
            return False


def runs_text(node: ast.AST) -> bool:
    runners = {"eval", "exec", "builtins.eval", "builtins.exec"}
    return isinstance(node, ast.Call) and _dotted(node.func) in runners


def loads_objects(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    name = _dotted(node.func)
    unsafe = {"torch.load", "torch.jit.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
    methods = (".recv_pyobj", ".send_pyobj", ".recv_serialized")
    return name in unsafe or name.endswith(methods) or _keyword(node, "allow_pickle") is True


def asks_a_shell(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    shells = {"os.system", "os.popen", "asyncio.create_subprocess_shell", "subprocess.getoutput"}
    return _dotted(node.func) in shells or _keyword(node, "shell") is True


def trusts_remote_code(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _keyword(node, "trust_remote_code") is True


def listens_everywhere(node: ast.AST) -> bool:
    """A wildcard as an argument or a default; what a value is compared with is none."""
    values: list[ast.expr | None] = []
    match node:
        case ast.Call(args=args, keywords=keywords):
            values = [*args, *(keyword.value for keyword in keywords)]
        case ast.arguments(defaults=defaults, kw_defaults=others):
            values = [*defaults, *others]
        case ast.Tuple(elts=values_of_address, ctx=ast.Load()) if len(values_of_address) == 2:
            values = values_of_address[:1]
    texts = (value.value for value in values if isinstance(value, ast.Constant))
    return any(
        isinstance(text, str)
        and (text in _WILDCARDS - {"*"} or text.startswith(("tcp://*", "tcp://0.0.0.0")))
        for text in texts
    )


def leaves_certificates_unchecked(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=func) as call:
            unchecked = {"ssl._create_unverified_context", "ssl.CERT_NONE"}
            return _dotted(func) in unchecked or any(
                _keyword(call, name) is False for name in ("verify", "verify_ssl", "check_hostname")
            )
        case ast.Assign(
            targets=[ast.Attribute(attr="check_hostname")], value=ast.Constant(value=on)
        ):
            return on is False
        case ast.Attribute() as name:
            return _dotted(name) == "ssl.CERT_NONE"
        case _:
            return False


def asserts_by_equality_of_secrets(node: ast.AST) -> bool:
    """`token == other` takes longer the more of it is right; `hmac.compare_digest` does not."""
    secret = ("secret", "password", "signature", "hmac", "api_key", "proof")
    return (
        isinstance(node, ast.Compare)
        and isinstance(node.ops[0], ast.Eq | ast.NotEq)
        and all(
            _dotted(side).rpartition(".")[2].endswith(secret)
            for side in (node.left, node.comparators[0])
        )
    )


RULES: dict[Callable[[ast.AST], bool], tuple[str, ...]] = {
    imports_what_runs_code: ("import pickle", "from dill import loads", "import marshal as m"),
    runs_text: ("eval('1')", "exec(text)"),
    loads_objects: (
        "torch.load(path)",
        "yaml.load(text)",
        "socket.recv_pyobj()",
        "np.load(path, allow_pickle=True)",
    ),
    asks_a_shell: ("subprocess.run(text, shell=True)", "os.system(text)"),
    trusts_remote_code: ("AutoModel.from_pretrained(name, trust_remote_code=True)",),
    listens_everywhere: (
        "socket.bind('tcp://*:5555')",
        "socket.bind(('0.0.0.0', 80))",
        "serve(host='::')",
        "def serve(host='0.0.0.0'): ...",
        "option('Where.', default='0.0.0.0')",
    ),
    leaves_certificates_unchecked: (
        "get(url, verify=False)",
        "context.check_hostname = False",
        "context.verify_mode = ssl.CERT_NONE",
    ),
    asserts_by_equality_of_secrets: ("key.secret == shown_secret",),
}
NOT_FORBIDDEN = """
model.eval()
torch.compile(model)
host == "0.0.0.0"
host in {"0.0.0.0", ""}
AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
subprocess.run(["ls"], shell=False)
hmac.compare_digest(secret, other_secret)
"""


@cache
def nodes(text: str) -> list[ast.AST]:
    return list(ast.walk(ast.parse(text)))


def found(rule: Callable[[ast.AST], bool], text: str) -> Iterator[int]:
    """The lines at which a rule is broken."""
    return (getattr(node, "lineno", 1) for node in nodes(text) if rule(node))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_file_breaks_the_rule(rule: Callable[[ast.AST], bool]) -> None:
    broken = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in SOURCES
        for line in found(rule, path.read_text("utf-8"))
    ]

    assert len(SOURCES) > 100
    assert broken == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_rule_finds_what_it_forbids_and_nothing_else(rule: Callable[[ast.AST], bool]) -> None:
    assert [sample for sample in RULES[rule] if not list(found(rule, sample))] == []
    assert list(found(rule, NOT_FORBIDDEN)) == []
