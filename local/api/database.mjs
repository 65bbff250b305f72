// Three logins, none of them a superuser: each service works as the role that owns its tables on hosted Supabase.
// Data and files are reached as the caller: `authenticator` may do nothing itself and turns into the caller's role
// for one transaction. Nothing outlives the transaction, so a pooled connection carries nothing to the next caller.
import pg from 'pg';

const PARSERS = { 16: (text) => text === 't', 20: Number, 21: Number, 23: Number, 114: JSON.parse, 3802: JSON.parse };
const types = { getTypeParser: (oid) => PARSERS[oid] ?? ((text) => text) };

const RECONNECT_AFTER_MS = 100;
const RETRIES = 3;

export class Database {
  constructor({ databaseUrl, poolSize }) {
    const pool = (user, max) => {
      const made = new pg.Pool({
        connectionString: as(user, databaseUrl),
        max,
        types,
        options: '-c timezone=UTC',
        connectionTimeoutMillis: 5000,
        idleTimeoutMillis: 5000,
        application_name: `api (${user})`,
      });
      // An idle connection that breaks is simply not used again.
      made.on('error', () => {});
      return made;
    };
    this.url = databaseUrl;
    this.callers = pool('authenticator', poolSize);
    this.auth = pool('supabase_auth_admin', Math.max(2, poolSize >> 1));
    this.storage = pool('supabase_storage_admin', 2);
    this.listeners = [];
  }

  /** Run `work(query)` in a transaction of the caller's role, with what policies and functions read about the request. */
  asCaller(caller, request, work, { readOnly = false } = {}) {
    return transaction(this.callers, preamble(caller, request, readOnly), work);
  }

  asAuth(work) {
    return transaction(this.auth, 'begin', work);
  }

  asStorage(text, values) {
    return using(this.storage, (query) => query(text, values));
  }

  /** As `authenticator` itself, who sees the catalog and nothing else. */
  asNobody(work) {
    return using(this.callers, work);
  }

  async answers() {
    await this.asNobody((query) => query('select 1'));
  }

  /** Call `heard` for each notification on the channel, and once whenever listening begins (again). */
  async listen(channel, heard) {
    const client = new pg.Client({
      connectionString: as('authenticator', this.url),
      application_name: 'api (listener)',
    });
    const again = () => {
      if (this.closed) return;
      setTimeout(() => this.listen(channel, heard).catch(again), RECONNECT_AFTER_MS);
    };
    client.on('error', () => {});
    await client.connect();
    client.once('end', again);
    client.on('notification', ({ payload }) => heard(payload));
    this.listeners.push(client);
    await client.query(`listen ${pg.escapeIdentifier(channel)}`);
    heard('');
  }

  async close() {
    this.closed = true;
    await Promise.all([...this.listeners, this.callers, this.auth, this.storage].map((each) => each.end()));
  }
}

async function transaction(pool, begin, work) {
  // A pooled connection may have died without a word. Until `begin` is answered nothing was done, so another is tried.
  for (let left = RETRIES; ; left -= 1) {
    let stage = 'connect';
    try {
      return await using(pool, async (query) => {
        stage = 'begin';
        try {
          await query(begin);
          stage = 'work';
          const answer = await work(query);
          await query(answer?.rollBack ? 'rollback' : 'commit');
          return answer;
        } catch (error) {
          await query('rollback').catch(() => {
            error.databaseGone = true;
          });
          throw error;
        }
      });
    } catch (error) {
      if (stage !== 'begin' || !error.databaseGone || left === 0) throw error;
    }
  }
}

/** A connection for the time of `work(query)`; one that broke meanwhile is not used again, and the error says so. */
async function using(pool, work) {
  const client = await pool.connect().catch((error) => {
    throw Object.assign(error, { databaseGone: true });
  });
  let broken = false;
  const lost = () => {
    broken = true;
  };
  client.on('error', lost);
  try {
    return await work(async (text, values) => (await client.query(text, values)).rows);
  } catch (error) {
    broken ||= error.databaseGone === true;
    error.databaseGone = broken;
    throw error;
  } finally {
    client.off('error', lost);
    client.release(broken);
  }
}

/** One round trip: begin, become the caller, tell the transaction about the request, run the project's own check. */
function preamble({ role, claims }, { method = '', path = '', headers = {}, settings = {}, check = '' }, readOnly) {
  const values = {
    ...settings,
    'request.method': method,
    'request.path': path,
    'request.headers': JSON.stringify(headers),
    'request.cookies': '{}',
    'request.jwt.claims': JSON.stringify(claims),
    role,
  };
  const set = Object.entries(values).map(
    ([name, value]) => `set_config(${pg.escapeLiteral(name)}, ${pg.escapeLiteral(String(value))}, true)`,
  );
  return `begin${readOnly ? ' read only' : ''}; select ${set.join(', ')};${check}`;
}

function as(user, databaseUrl) {
  const url = new URL(databaseUrl);
  url.username = user;
  return url.href;
}
