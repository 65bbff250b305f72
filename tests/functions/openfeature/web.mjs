// The OpenFeature provider for browsers, as published: one request for all flags, and again with its tag.
import { OpenFeature } from '@openfeature/web-sdk';
import { OFREPWebProvider } from '@openfeature/ofrep-web-provider';

const { url, headers, questions, context } = JSON.parse(process.argv[2]);
const statuses = [];
const fetchImplementation = async (request) => {
  const response = await fetch(request);
  statuses.push(response.status);
  return response;
};
const options = { baseUrl: url, headers, fetchImplementation, pollInterval: 100, cacheMode: 'disabled' };
await OpenFeature.setContext(context);
await OpenFeature.setProviderAndWait(new OFREPWebProvider(options));
const client = OpenFeature.getClient();
const answers = questions.map(({ kind, flag, fallback }) => client[`get${kind}Details`](flag, fallback));
while (statuses.length < 3) await new Promise((resolve) => { setTimeout(resolve, 20); });
console.log(JSON.stringify({ answers, statuses: statuses.slice(0, 3) }));
await OpenFeature.close();
process.exit(0);
