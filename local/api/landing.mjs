// GET / : what runs here, for the person who has just started it. GET /mail : what would have been mailed.
import { readFileSync } from 'node:fs';
import { send } from './http.mjs';

const PAGE = readFileSync(new URL('./landing.html', import.meta.url), 'utf8');
const MAIL = readFileSync(new URL('./mail.html', import.meta.url), 'utf8');
const DEMO_PASSWORD = 'strive-demo-1'; // of everyone in supabase/seed.sql
const PATIENCE_MS = 1000;

export class Landing {
  constructor(database, mail, { functionsUrl, stripeUrl, apiUrl, keys }) {
    this.database = database;
    this.mail = mail;
    this.functionsUrl = functionsUrl;
    this.stripeUrl = stripeUrl;
    this.apiUrl = apiUrl;
    this.publishableKey = keys.publishable_key;
  }

  async handle(_request, response) {
    const [functions, accounts] = await Promise.all([this.#functions(), this.#accounts()]);
    sendPage(response, PAGE, {
      apiUrl: text(this.apiUrl),
      publishableKey: text(this.publishableKey),
      database: state(accounts !== null),
      functionServer: state(functions !== null),
      payments: this.stripeUrl
        ? `<a href="${text(this.stripeUrl)}/">pay with test cards</a>`
        : 'at Stripe',
      functions: table(
        functions,
        'No function server answers yet.',
        ({ method, path, summary }) =>
          `<tr><td><code class="method">${text(method)}</code></td><td><code>${text(path)}</code></td><td>${text(summary)}</td></tr>`,
      ),
      accounts: table(
        accounts,
        'The database does not answer yet.',
        (email) => `<tr><td><code>${text(email)}</code></td></tr>`,
      ),
      account: text(accounts?.[0] ?? 'you@example.com'),
      password: text(DEMO_PASSWORD),
    });
  }

  showMail(response) {
    const messages = this.mail.box.map(
      ({ to, subject, code, link, at }) => `<article><h2>${text(subject)}</h2>
      <p>to <b>${text(to)}</b> at ${text(at)}</p><p>Code <code>${text(code)}</code> · <a href="${text(link)}">open the link</a></p></article>`,
    );
    sendPage(response, MAIL, {
      messages: messages.join('\n') || '<p class="none">Nothing has been mailed since the API started.</p>',
    });
  }

  async #functions() {
    if (!this.functionsUrl) return null;
    try {
      const answer = await fetch(`${this.functionsUrl}/functions/v1/openapi.json`, {
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
      const { paths } = await answer.json();
      return Object.entries(paths).flatMap(([path, methods]) =>
        Object.entries(methods).map(([method, { summary = '' }]) => ({
          path: `/functions/v1${path}`,
          method: method.toUpperCase(),
          summary,
        })),
      );
    } catch {
      return null;
    }
  }

  /** Only addresses that cannot exist: whoever signed up for real is nobody's business. */
  async #accounts() {
    try {
      const rows = await this.database.asAuth((query) =>
        query(
          `select email from auth.users where email like '%.test' order by split_part(email, '@', 2), created_at, email limit 20`,
        ),
      );
      return rows.map(({ email }) => email);
    } catch {
      return null;
    }
  }
}

function sendPage(response, page, values) {
  const filled = page.replace(/\{\{(\w+)\}\}/g, (_, name) => values[name]);
  send(response, 200, filled, {
    'content-type': 'text/html; charset=utf-8',
    'cache-control': 'no-store',
    'content-security-policy': "default-src 'none'; style-src 'unsafe-inline'; img-src data:",
  });
}

function table(rows, otherwise, row) {
  if (rows === null) return `<p class="none">${otherwise}</p>`;
  return rows.length ? `<table>${rows.map(row).join('\n')}</table>` : '<p class="none">None.</p>';
}

const state = (up) => (up ? '<span class="up">running</span>' : '<span class="down">not running</span>');

const ENTITIES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
const text = (value) => String(value).replace(/[&<>"']/g, (sign) => ENTITIES[sign]);
