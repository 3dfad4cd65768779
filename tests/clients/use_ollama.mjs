// ollama-js: list, chat and generate (complete and streamed), a tool, embeddings, errors.
// Arguments: host (with a path, if the API is below one), key, model, embedding model.

import { Ollama } from "ollama";

const [host, key, model, embedder] = process.argv.slice(2);
const client = new Ollama({ host, headers: { Authorization: `Bearer ${key}` } });
const messages = [{ role: "user", content: "Why is the sky blue?" }];
const options = { num_predict: 4 };
const reported = [];
const note = (last) => reported.push({ input: last.prompt_eval_count, output: last.eval_count });

function check(condition, text) {
  if (!condition) throw new Error(text);
}

async function parts(stream) {
  const found = [];
  for await (const part of stream) found.push(part);
  return found;
}

const { models } = await client.list();
check(models.some((it) => it.model === `${model}:latest`), "the model is not listed");
check((await client.version()).version, "no version");
const whole = await client.chat({ model, messages, options });
check(whole.done && whole.model === model, "the chat is not whole");
note(whole);
const streamed = await parts(await client.chat({ model, messages, options, stream: true }));
check(streamed.map((it) => it.message.content).join("") === whole.message.content, "another text is streamed");
note(streamed.at(-1));
const generated = await parts(await client.generate({ model, prompt: "Hi", stream: true }));
check(generated.at(-1).done, "the generation has no end");
note(generated.at(-1));
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "get_weather", description: "The weather", parameters } }];
const called = await client.chat({ model, messages, tools });
check(called.message.tool_calls[0].function.name === "get_weather", "no call");
note(called);
const embedded = await client.embed({ model: embedder, input: ["one", "two"] });
check(embedded.embeddings.length === 2, "not two vectors");
reported.push({ input: embedded.prompt_eval_count, output: 0 });
const errors = [];
for (const call of [
  () => client.chat({ model: "no-such-model", messages }),
  () => client.pull({ model: "llama3.2" }),
]) {
  try {
    await call();
  } catch (error) {
    errors.push([error.status_code, error.message]);
  }
}
console.log(JSON.stringify({ reported, errors }));
