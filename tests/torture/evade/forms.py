"""The forms: bodies, dialects, and how the client ends the request."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice

CONTEXT = 4096  # tokens of each model
BUDGET = 3_000  # tokens of each key, in total
WISH = 4_000  # output tokens
FORMS = 200

VLLM, FIRST, LLAMACPP, GO = "vllm", "first", "llamacpp", "go"  # how they read bodies
READERS = (VLLM, FIRST, LLAMACPP, GO)
FORBIDDEN = tuple(f"{reader}-big" for reader in READERS)

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
OLLAMA_CHAT, OLLAMA_GENERATE = "/ollama/api/chat", "/ollama/api/generate"
DIALECTS = (CHAT, COMPLETIONS, RESPONSES, MESSAGES, OLLAMA_CHAT, OLLAMA_GENERATE)

AFTER_FIRST, BEFORE_HEAD = "after the first event", "before the response"
READ, CANCEL = "read", "cancel"  # what follows a response in the background


@dataclass(frozen=True, slots=True)
class Form:
    """One form of a wish."""

    name: str
    path: str
    body: str  # JSON text
    cut: str = ""  # when the client leaves
    then: tuple[str, ...] = ()
    has_budget: bool = True


def _prompt(path: str, size: int = 60) -> str:
    text = json.dumps("go on " * size)
    if path in (COMPLETIONS, OLLAMA_GENERATE):
        return f'"prompt":{text}'
    return f'"input":{text}' if path == RESPONSES else f'"messages":[{{"role":"user","content":{text}}}]'


def _most(path: str, tokens: int) -> str:
    if path == RESPONSES:
        return f'"max_output_tokens":{tokens}'
    return f'"options":{{"num_predict":{tokens}}}' if path.startswith("/ollama") else f'"max_tokens":{tokens}'


def _body(*fields: str, model: str = "small", reader: str = VLLM) -> str:
    return "{" + ",".join((f'"model":"{reader}-{model}"', *fields)) + "}"


# What is asked for beside a small number, which come in several dialects, to several readers.
_BESIDE = (
    f'"max_completion_tokens":{WISH}',
    f'"n_predict":{WISH}',
    '"n_predict":-1',
    f'"max_output_tokens":{WISH}',
    f'"max_length":{WISH}',
    '"n":100',
    '"n":"100"',
    '"n":100.0',
    '"n":1e2',
    '"n":1001',
    '"best_of":100',
    '"best_of":"100"',
    '"n":2,"best_of":100',
    '"n_cmpl":100',
    '"max_completion_tokens":null,"n":100',
    f'"max_completion_tokens":"{WISH}"',
    f'"max_completion_tokens":{WISH}.0',
    f'"max_completion_tokens":{WISH}.00000000000000000000000',
    f'"max_completion_tokens":4e3,"user":"{"u" * 300}"',
    f'"max\\u005fcompletion\\u005ftokens":{WISH}',
    f'"max_tokens":{WISH}',  # the last of two
    f'"MAX_TOKENS":{WISH}',
    f'"Max_Tokens":{WISH},"N":100',
    '"n":100,"n":1',  # the first of two
)
_PATHS = (
    (CHAT, VLLM), (COMPLETIONS, VLLM), (CHAT, LLAMACPP), (COMPLETIONS, LLAMACPP), (CHAT, FIRST), (CHAT, GO),
)  # fmt: skip


def tokens() -> Iterator[Form]:
    """Wishes for more tokens than are left, in bodies that say few at first sight."""
    for number, beside in enumerate(_BESIDE):
        for index, (path, reader) in enumerate(islice(cycle(_PATHS), number, number + 4)):
            small, more = '"max_tokens":60', ['"stream":true'] if index % 2 else []
            if index == 3:
                more.append(f'"metadata":{{"note":"{"x" * 140_000}"}}')  # read as a big body; its bytes are too many
            fields = (_prompt(path), small, beside, *more)
            yield Form(f"{beside[:40]} at {path} ({reader}, {index})", path, _body(*fields, reader=reader))
    for prompts in ('["a"' + ',"a"' * 99 + "]", "[[1]" + ",[1]" * 99 + "]", '["a",\n  "a"' + ', "a"' * 99 + "]"):
        yield Form(f"100 prompts {prompts[:9]!r}", COMPLETIONS, _body(f'"prompt":{prompts}', '"max_tokens":60'))
    for path in (OLLAMA_CHAT, OLLAMA_GENERATE):
        for options in (f'{{"num_predict":{WISH}}}', f'{{"num_predict":"{WISH}"}}', '{"num_predict":-1}', "{}"):
            yield Form(f"options {options} at {path}", path, _body(_prompt(path), f'"options":{options}', reader=GO))
    twice = (
        f'"options":{{"num_predict":{WISH}}},"options":{{"num_predict":9}}',
        f'"options":{{"num_predict":9}},"Options":{{"num_predict":{WISH}}}',
        f'"options":{{"num_predict":9,"NUM_PREDICT":{WISH}}}',
    )
    for options in twice:
        body = _body(_prompt(OLLAMA_CHAT), options, reader=GO)
        yield Form(f"{options[:60]} at {OLLAMA_CHAT}", OLLAMA_CHAT, body)


def honest() -> Iterator[Form]:
    """Requests that fit, in all dialects: whole, streamed, and broken off. They end when the budget is spent."""
    for path in DIALECTS:
        reader = GO if path.startswith("/ollama") else VLLM
        fields = (_prompt(path), _most(path, 50))
        yield Form(f"whole at {path}", path, _body(*fields, '"stream":false', reader=reader))
        stream = (*fields, '"stream":true')
        yield Form(f"stream at {path}", path, _body(*stream, reader=reader))
        for cut in (AFTER_FIRST, BEFORE_HEAD):
            slow = '"user":"fault=slow"' if cut == BEFORE_HEAD else '"user":"u"'
            yield Form(f"left {cut} at {path}", path, _body(*stream, slow, reader=reader), cut=cut)
        yield Form(f"cut by the endpoint at {path}", path, _body(*stream, '"user":"fault=cut"', reader=reader))
    for fault in ("quote 429", "quote 503", "quote 400"):  # a stream that is counted must follow each
        body = _body(_prompt(CHAT), '"max_tokens":50', '"stream":true', f'"user":"fault={fault}"')
        yield Form(fault, CHAT, body)
    long = (_prompt(CHAT, 1_000), '"max_tokens":5', '"stream":true')
    yield Form("long prompts, left", CHAT, _body(*long), cut=AFTER_FIRST)


def background() -> Iterator[Form]:
    """Responses in the background: refused under a budget, and counted once without one."""
    fields = (_prompt(RESPONSES), '"max_output_tokens":50')
    for value in ("true", '"true"', "1"):
        yield Form(f"background {value}", RESPONSES, _body(*fields, f'"background":{value}'))
    open_ = Form("background, read", RESPONSES, _body(*fields, '"background":true'), then=(READ,), has_budget=False)
    yield from (open_, replace(open_, name="background, read twice", then=(READ, READ)))
    yield replace(open_, name="background, cancelled and read", then=(CANCEL, READ))


# Fields with a name of the forbidden model
_NAMES = (
    '"model":"{reader}-big"',
    '"model":"{reader}-BIG"',
    '"model":"{reader}-big:latest"',
    '"model":"{reader}-Big:Latest"',
    '"model":" {reader}-big "',
    '"model":"{reader}-ｂｉｇ"',
    '"mod\\u0065l":"{reader}-b\\u0069g"',
    '"model":"{reader}-small","model":"{reader}-big"',
    '"model":"{reader}-big","model":"{reader}-small"',
    '"model":"{reader}-small","MODEL":"{reader}-big"',
    '"Model":"{reader}-big","model":"{reader}-small"',
    '"model":"{reader}-small","models":["{reader}-big"]',
)
_PLACES = (
    (CHAT, FIRST), (OLLAMA_CHAT, GO), (CHAT, GO), (RESPONSES, VLLM), (MESSAGES, VLLM), (OLLAMA_GENERATE, GO),
    (COMPLETIONS, LLAMACPP),
)  # fmt: skip


def models() -> Iterator[Form]:
    """Wishes for a model that the key must not use."""
    for path, reader in _PLACES:
        for names in _NAMES:
            fields = (_prompt(path), _most(path, 20))
            body = "{" + ",".join((names.replace("{reader}", reader), *fields)) + "}"
            yield Form(f"{names[:60]} at {path} ({reader})", path, body)


def all_forms() -> list[Form]:
    """Return the FORMS forms; of the names of models those in all places but some."""
    forms = [*honest(), *background(), *tokens()]
    return [*forms, *islice(models(), FORMS - len(forms))]
