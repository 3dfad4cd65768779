"""The limits that anthropic's library reads from the list of models. Arguments: base URL, key."""

import json
import sys

from anthropic import Anthropic

url, key = sys.argv[1:]
client = Anthropic(base_url=url, api_key=key)
listed = {model.id: [model.max_input_tokens, model.max_tokens] for model in client.models.list(limit=1)}
retrieved = {name: client.models.retrieve(name) for name in listed}
assert listed == {name: [model.max_input_tokens, model.max_tokens] for name, model in retrieved.items()}
print(json.dumps(listed))
