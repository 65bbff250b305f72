// /functions/v1/<name>: everything is handed on to the function server as it streams in, and back as it streams out.
import http from 'node:http';
import { restError } from './errors.mjs';
import { allowOrigins, sendError } from './http.mjs';

// These speak of one connection only and are not handed on (RFC 9110, 7.6.1).
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
  'proxy-connection',
]);

export class Functions {
  constructor({ functionsUrl, apiUrl }) {
    this.upstream = functionsUrl ? new URL(functionsUrl) : null;
    this.public = new URL(apiUrl);
    this.agent = new http.Agent({ keepAlive: true, keepAliveMsecs: 1000, maxFreeSockets: 8 });
  }

  handle(request, response) {
    if (!this.upstream) return refuse(response, 'No function server is configured.', 'Set FUNCTIONS_URL.');
    return new Promise((resolve) => {
      const onward = http.request({
        agent: this.agent,
        host: this.upstream.hostname,
        port: this.upstream.port || 80,
        method: request.method,
        path: request.url,
        headers: this.#headers(request),
      });
      const fail = () => {
        if (response.headersSent) response.destroy();
        else refuse(response, 'The function server does not answer.', 'Try again in a moment.');
        resolve();
      };
      onward.on('response', (answer) => {
        response.writeHead(answer.statusCode, answer.statusMessage, endToEnd(answer.rawHeaders));
        answer.pipe(response);
        answer.on('error', fail);
        answer.on('aborted', fail);
      });
      onward.on('error', fail);
      // Whoever hangs up ends the work done for them.
      response.on('close', () => {
        if (!response.writableFinished) onward.destroy();
        resolve();
      });
      request.pipe(onward);
    });
  }

  close() {
    this.agent.destroy();
  }

  #headers(request) {
    const headers = endToEnd(request.rawHeaders);
    const from = request.socket.remoteAddress;
    const before = request.headers['x-forwarded-for'];
    headers.push('x-forwarded-for', before ? `${before}, ${from}` : from);
    if (!request.headers['x-forwarded-host'])
      headers.push('x-forwarded-host', request.headers.host ?? this.public.host);
    if (!request.headers['x-forwarded-proto']) headers.push('x-forwarded-proto', this.public.protocol.slice(0, -1));
    return headers;
  }
}

function endToEnd(rawHeaders) {
  const named = new Set(
    (valueOf(rawHeaders, 'connection') ?? '')
      .toLowerCase()
      .split(',')
      .map((name) => name.trim()),
  );
  const kept = [];
  for (let index = 0; index < rawHeaders.length; index += 2) {
    const name = rawHeaders[index].toLowerCase();
    if (!HOP_BY_HOP.has(name) && !named.has(name) && name !== 'x-forwarded-for')
      kept.push(rawHeaders[index], rawHeaders[index + 1]);
  }
  return kept;
}

function valueOf(rawHeaders, name) {
  const index = rawHeaders.findIndex((each, at) => at % 2 === 0 && each.toLowerCase() === name);
  return index < 0 ? undefined : rawHeaders[index + 1];
}

/** Functions allow origins themselves; where there is none, a browser shall see this answer all the same. */
function refuse(response, message, hint) {
  allowOrigins(response);
  sendError(response, restError(503, 'functions_unavailable', message, null, hint, { 'retry-after': '1' }));
}
