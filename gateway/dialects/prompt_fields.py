"""The fields of a request that are its prompt, in all dialects."""

import msgspec

MISSING = msgspec.Raw(b"")


class PromptFields(msgspec.Struct, kw_only=True):
    """Raw JSON; empty if a field is missing."""

    messages: msgspec.Raw = MISSING
    input: msgspec.Raw = MISSING
    prompt: msgspec.Raw = MISSING
    tools: msgspec.Raw = MISSING
    system: msgspec.Raw = MISSING
    instructions: msgspec.Raw = MISSING
    prompt_cache_key: msgspec.Raw = MISSING


decode_prompt = msgspec.json.Decoder(PromptFields).decode
