// AI SDK calls a tool, runs it, and continues with its result, complete and streamed. Arguments: base URL, key, model.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, stepCountIs, streamText, tool } from "ai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "routerdash", baseURL, apiKey });
const calls = [];
const get_weather = tool({
  description: "The weather in a city.",
  inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } }, required: ["city"] }),
  execute: async (input) => {
    calls.push({ name: "get_weather", arguments: input });
    return "Sunny.";
  },
});
const asking = {
  model: provider(model),
  prompt: "What is the weather in Paris?",
  temperature: 0,
  maxOutputTokens: 60,
  tools: { get_weather },
  stopWhen: stepCountIs(3),
  maxRetries: 0,
};
const { text } = await generateText(asking);
const streamed = await streamText(asking).text;
if (streamed !== text) throw new Error(`streamed: ${streamed}`);
console.log(JSON.stringify({ calls, response: text }));
