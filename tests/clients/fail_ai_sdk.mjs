// Errors that the AI SDK raises, or reports in a stream; the cases are those of failing.py. Arguments: base URL, key.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const [baseURL, key] = process.argv.slice(2);
const CASES = {
  unauthorized: "works",
  unknown: "no-such-model",
  bad: "refuses",
  limited: "limits",
  failed: "fails",
  closed: "closed",
};

async function ask(model, stream, apiKey) {
  const provider = createOpenAICompatible({ name: "routerdash", baseURL, apiKey });
  const asking = { model: provider(model), prompt: "Say hello.", maxRetries: 0 };
  if (!stream) return generateText(asking);
  for await (const part of streamText({ ...asking, onError() {} }).fullStream) {
    if (part.type === "error") throw part.error;
  }
}

async function raised(model, stream, apiKey = key) {
  try {
    await ask(model, stream, apiKey);
  } catch (error) {
    const message = typeof error === "string" ? error : (error?.message ?? JSON.stringify(error));
    return { classes: [error?.name ?? typeof error], status: error?.statusCode ?? null, message };
  }
  return { classes: [], status: null, message: "" };
}

const errors = {};
for (const [name, model] of Object.entries(CASES)) {
  const apiKey = name === "unauthorized" ? "sk_wrong" : key;
  errors[name] = await raised(model, false, apiKey);
  errors[`${name} streamed`] = await raised(model, true, apiKey);
}
errors["broken streamed"] = await raised("breaks", true);
console.log(JSON.stringify({ raised: errors }));
