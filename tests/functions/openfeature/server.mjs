// The OpenFeature provider for JavaScript servers, as published: evaluates the given flags and prints the results.
import { OpenFeature } from '@openfeature/server-sdk';
import { OFREPProvider } from '@openfeature/ofrep-provider';

const { url, headers, questions } = JSON.parse(process.argv[2]);
await OpenFeature.setProviderAndWait(new OFREPProvider({ baseUrl: url, headers }));
const client = OpenFeature.getClient();
const answers = [];
for (const { kind, flag, fallback, context } of questions) {
  answers.push(await client[`get${kind}Details`](flag, fallback, context));
}
console.log(JSON.stringify(answers));
await OpenFeature.close();
