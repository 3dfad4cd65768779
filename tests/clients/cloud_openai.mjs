// openai-node: chat, stream, tools, responses. Arguments: base URL, key, model, and `responses` to leave these out.
import OpenAI from "openai";

const [baseURL, apiKey, model, without] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello to all of us." }];
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const weather = { name: "weather", description: "The weather in a city.", parameters };
const usages = [];

const chat = await client.chat.completions.create({ model, messages });
usages.push(chat.usage);

const streamed = client.chat.completions.stream({ model, messages, stream_options: { include_usage: true } });
usages.push((await streamed.finalChatCompletion()).usage);

const tools = [{ type: "function", function: weather }];
const called = await client.chat.completions.create({ model, messages, tools });
const calls = called.choices[0].message.tool_calls;
if (calls.length !== 2 || !JSON.parse(calls[0].function.arguments).city) throw new Error("no tool calls");
usages.push(called.usage);

if (without !== "responses") {
  const stream = client.responses.stream({ model, input: "Say hello.", tools: [{ type: "function", ...weather }] });
  const response = await stream.finalResponse();
  if (response.output.filter((item) => item.type === "function_call").length !== 2) throw new Error("no function calls");
  usages.push(response.usage);
}

console.log(JSON.stringify({ usages }));
