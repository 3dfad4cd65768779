// ollama-js calls a tool and continues with its result, complete and streamed. Arguments: host, key, model.
import { Ollama } from "ollama";

const [host, key, model] = process.argv.slice(2);
const client = new Ollama({ host, headers: { Authorization: `Bearer ${key}` } });
const messages = [{ role: "user", content: "What is the weather in Paris?" }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "get_weather", description: "The weather in a city.", parameters } }];
const reported = { input: 0, output: 0 };

/** Return text and calls of a response, and add its counts. */
async function ask(messages, stream) {
  const given = await client.chat({ model, messages, tools, options: { temperature: 0, num_predict: 60 }, stream });
  const parts = [];
  if (stream) for await (const part of given) parts.push(part);
  else parts.push(given);
  reported.input += parts.at(-1).prompt_eval_count;
  reported.output += parts.at(-1).eval_count;
  const text = parts.map((part) => part.message.content).join("");
  return { text, calls: parts.flatMap((part) => part.message.tool_calls ?? []) };
}

const calls = [];
let response = "";
for (const stream of [false, true]) {
  const { calls: made } = await ask(messages, stream);
  const { name, arguments: given } = made[0].function;
  calls.push({ name, arguments: given });
  const turn = { role: "assistant", content: "", tool_calls: made };
  const result = { role: "tool", tool_name: name, content: "Sunny." };
  response = (await ask([...messages, turn, result], stream)).text;
}
console.log(JSON.stringify({ calls, response, reported }));
