// AI SDK: text, stream, embeddings. Arguments: base URL, key, model, embedder.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, streamText } from "ai";

const [baseURL, apiKey, model, embedder] = process.argv.slice(2);
const provider = createOpenAICompatible({ name: "routerdash", baseURL, apiKey, includeUsage: true });
const usages = [];
const note = (usage) => usages.push({ input: usage.inputTokens, output: usage.outputTokens });
const common = { model: provider(model), maxRetries: 0 };

const answer = await generateText({ ...common, prompt: "Say hello in five words.", maxOutputTokens: 8 });
if (!answer.text) throw new Error("no text");
note(answer.usage);

const streamed = streamText({ ...common, prompt: "Say hello in five words.", maxOutputTokens: 8 });
let text = "";
for await (const piece of streamed.textStream) text += piece;
if (!text) throw new Error("no streamed text");
note(await streamed.usage);

const embedding = await embedMany({ model: provider.embeddingModel(embedder), values: ["a", "b"], maxRetries: 0 });
if (embedding.embeddings.length !== 2) throw new Error("not two embeddings");
note({ inputTokens: embedding.usage.tokens, outputTokens: 0 });

console.log(JSON.stringify({ reported: usages }));
