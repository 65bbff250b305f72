// One URL for everything a client of Supabase calls: data, auth, files, functions. See settings.mjs for its environment.
import http from 'node:http';
import { Auth } from './auth.mjs';
import { Callers } from './callers.mjs';
import { Database } from './database.mjs';
import { HttpError, isUnavailable, notBuiltIn, restError, unavailable } from './errors.mjs';
import { Functions } from './functions.mjs';
import { allowOrigins, answerPreflight, sendError, sendJson, target } from './http.mjs';
import { Landing } from './landing.mjs';
import { Rest } from './rest.mjs';
import { Catalog } from './rest/catalog.mjs';
import { readSettings } from './settings.mjs';
import { Storage } from './storage.mjs';
import { TokenError, Tokens } from './tokens.mjs';

const HEADER_LIMIT = 64 * 1024;
const PATIENCE_MS = 8000; // for requests in flight when told to stop

async function start(settings) {
  const database = new Database(settings);
  const catalog = new Catalog(database, settings);
  const tokens = await Tokens.of(settings.keys);
  const callers = new Callers(tokens, settings.keys);
  const functions = new Functions(settings);
  const auth = new Auth(database, tokens, callers, settings);
  const services = {
    auth,
    rest: new Rest(database, catalog),
    storage: new Storage(database, tokens, settings),
    functions,
  };
  const landing = new Landing(database, auth.mail, settings);
  await catalog.read();
  await database.listen('pgrst', (payload) => {
    if (payload === '' || payload.startsWith('reload')) catalog.read().catch(() => {});
  });

  const server = http.createServer({ maxHeaderSize: HEADER_LIMIT, keepAliveTimeout: 65_000 });
  server.on('request', (request, response) => {
    answer(request, response, { services, callers, landing, database }).catch((error) => {
      console.error(`${request.method} ${request.url.split('?')[0]}`, error);
      sendError(
        response,
        restError(500, 'internal_error', 'Something is wrong with the API itself; its log says more.'),
      );
    });
  });
  server.on('clientError', refuseUnreadable);
  await new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(settings.port, settings.host, resolve);
  });
  stopOnSignal(server, async () => {
    functions.close();
    await database.close();
  });
  console.log(`API listening on http://${settings.host}:${server.address().port}`);
}

async function answer(request, response, { services, callers, landing, database }) {
  let caller;
  let service;
  try {
    const url = target(request);
    const [, name, version] = url.pathname.split('/');
    if (name === 'functions' && version === 'v1') return await services.functions.handle(request, response);
    allowOrigins(response);
    if (request.method === 'OPTIONS') return answerPreflight(request, response);
    if (url.pathname === '/') return await landing.handle(request, response);
    if (url.pathname === '/mail') return landing.showMail(response);
    if (url.pathname === '/health') return await health(response, database);
    if (['realtime', 'graphql', 'pg'].includes(name)) throw notBuiltIn(`/${name}`);
    service = version === 'v1' && Object.hasOwn(services, name) ? services[name] : null;
    if (!service)
      throw restError(404, 'not_found', `There is nothing at ${url.pathname}.`, null, 'See / for what there is.');
    if (!service.isOpen?.(request, url)) caller = await callers.caller(request, url);
    return await service.handle(request, response, url, caller);
  } catch (error) {
    const failure = described(error, service, caller);
    drain(request);
    return sendError(response, failure);
  }
}

/** What is left of a request nobody wants: unread, it would keep its sender from reading the answer. */
function drain(request) {
  request.removeAllListeners('readable');
  request.resume();
}

function described(error, service, caller) {
  if (isUnavailable(error)) return unavailable();
  const failure =
    error instanceof TokenError || !(error instanceof HttpError) ? service?.failure(error, caller) : error;
  if (failure instanceof HttpError) return failure;
  throw error;
}

async function health(response, database) {
  await database.answers();
  sendJson(response, 200, { status: 'ok' });
}

/** Not HTTP, or too much of it: Node only hands over the socket. */
function refuseUnreadable(error, socket) {
  if (!socket.writable) return;
  const [status, reason, message] =
    error.code === 'HPE_HEADER_OVERFLOW'
      ? [431, 'Request Header Fields Too Large', `The request headers are larger than ${HEADER_LIMIT} bytes.`]
      : [400, 'Bad Request', 'The request is not valid HTTP.'];
  const body = JSON.stringify({ code: String(status), message, details: null, hint: null });
  socket.end(
    `HTTP/1.1 ${status} ${reason}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n` +
      `connection: close\r\n\r\n${body}`,
  );
}

function stopOnSignal(server, close) {
  let stopping = false;
  const stop = () => {
    if (stopping) return;
    stopping = true;
    server.close(async () => {
      await close();
      process.exit(0);
    });
    // A connection whose last request is answered from now on is kept alive for nothing.
    setInterval(() => server.closeIdleConnections(), 50);
    setTimeout(() => server.closeAllConnections(), PATIENCE_MS).unref();
  };
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
}

try {
  await start(readSettings(process.env));
} catch (error) {
  const where =
    process.env.DB_URL && URL.canParse(process.env.DB_URL) ? ` (database at ${new URL(process.env.DB_URL).host})` : '';
  console.error(`The API cannot start: ${error.message || error.code}${where}`);
  process.exit(1);
}
