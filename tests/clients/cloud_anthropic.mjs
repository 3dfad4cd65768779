// Anthropic's SDK: message, stream, thinking that comes back with tools. Arguments: base URL, key, model.
import Anthropic from "@anthropic-ai/sdk";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Say hello to all of us." }];
const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ name: "weather", description: "The weather in a city.", input_schema: schema }];
const common = { model, max_tokens: 200 };
const usages = [];

usages.push((await client.messages.create({ ...common, messages })).usage);

const thinking = { type: "adaptive" };
const message = await client.messages.stream({ ...common, messages, tools, thinking }).finalMessage();
const kinds = message.content.map((block) => block.type).join();
if (kinds !== "thinking,tool_use,tool_use") throw new Error(`content: ${kinds}`);
usages.push(message.usage);

const content = message.content
  .filter((block) => block.type === "tool_use")
  .map((block) => ({ type: "tool_result", tool_use_id: block.id, content: "Sunny." }));
const turns = [...messages, { role: "assistant", content: message.content }, { role: "user", content }];
const last = await client.messages.create({ ...common, messages: turns, tools, thinking });
if (last.stop_reason !== "end_turn") throw new Error(`stopped by ${last.stop_reason}`);
usages.push(last.usage);

console.log(JSON.stringify({ usages }));
