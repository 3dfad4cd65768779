"""Writes a llama model of random weights with a byte-level vocabulary. Needs the environment of requirements.txt."""

import sys

import gguf
import numpy as np

WIDTH, LAYERS, HEADS, FEED_FORWARD, CONTEXT = 64, 2, 4, 128, 2048
WORDS = (
    "the of and to in is it you that he was for on are with as his they be at one have this from or had by hot word "
    "but what some we can out other were all there when up use your how said an each she"
).split()
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?'\"-:;()\u2581"
PLAIN = 259  # control and byte tokens, which should rarely be generated


def vocabulary() -> tuple[list[bytes], list[int], list[float]]:
    """Tokens, their types, their scores."""
    kind = gguf.TokenType
    rows = [(b"<unk>", kind.UNKNOWN, 0.0), (b"<s>", kind.CONTROL, 0.0), (b"</s>", kind.CONTROL, 0.0)]
    rows += [(f"<0x{byte:02X}>".encode(), kind.BYTE, 0.0) for byte in range(256)]
    rows += [(f"\u2581{word}".encode(), kind.NORMAL, -float(index + 1)) for index, word in enumerate(WORDS)]
    rows += [(letter.encode(), kind.NORMAL, -1000.0) for letter in LETTERS]
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]


def main(path: str) -> None:
    random = np.random.default_rng(0)
    tokens, types, scores = vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny-random")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(0)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:")

    def matrix(*shape: int) -> "np.ndarray":
        return (random.standard_normal(shape) * 0.3).astype(np.float32)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, matrix(*shape))

    output = matrix(len(tokens), WIDTH)
    output[:PLAIN] *= 0.02
    tensor("token_embd.weight", len(tokens), WIDTH)
    writer.add_tensor("output.weight", output)
    writer.add_tensor("output_norm.weight", np.ones(WIDTH, np.float32))
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{block}{norm}.weight", np.ones(WIDTH, np.float32))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            tensor(f"{block}{name}.weight", WIDTH, WIDTH)
        tensor(f"{block}ffn_gate.weight", FEED_FORWARD, WIDTH)
        tensor(f"{block}ffn_up.weight", FEED_FORWARD, WIDTH)
        tensor(f"{block}ffn_down.weight", WIDTH, FEED_FORWARD)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main(sys.argv[1])
