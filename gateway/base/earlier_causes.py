"""The wording of causes in earlier releases, which stored rows have, and the codes of `gateway.base.causes`.

This table is frozen: the stored text of a cause is part of the format now, and keeps its wording, so that nothing is
added here.
"""

EARLIER = {
    "its name leads nowhere": "no_address",
    "its address is link-local; see ROUTERDASH_ALLOW_LINK_LOCAL": "earlier_link_local",
    "an error in its answer": "error_within",
    "an error in its answer ({words})": "error_within_words",
    "not a proper HTTP answer: {http_detail}": "not_http",
    "a head or trailer without end": "endless_head",
    "its head has more than {most} lines": "many_header_lines",
    "the answer has more than {most} MiB": "large_response",
    "its answer has more than {most} MiB to be translated": "large_translation",
    "the stream ended before its answer did": "stream_cut",
    "an empty answer": "response_empty",
    "a web page instead of an answer": "web_page",
    "it tells no tokens": "no_token_counts",
    "the endpoint's answer is no chat completion: it has no message": "completion_without_message",
    "the endpoint's answer is no chat completion: {json_detail}": "no_chat_completion",
    "the endpoint's answer has more than {most} values": "many_values",
    "the endpoint's answer has more than {most} tool calls": "many_tool_calls",
    "the endpoint's answer has more than {most} blocks": "many_blocks",
    "it refuses the key that RouterDash has for it": "key_rejected",
    "RouterDash failed; its log says why": "internal_error",
    "The endpoint did not answer in time.": "response_timeout",
    "No endpoint that has the model {model} can be asked now.": "no_endpoint",
}
