// What an application does with the Realtime of supabase-js, against any Supabase: prints what it saw as JSON.
// With CHROMIUM, the path of a Chromium, the application runs there, else in Node.
import { createRequire } from 'node:module';
import { createClient } from '@supabase/supabase-js';

const { API_URL, CHROMIUM, EMAIL, PASSWORD, PRIVATE, PUBLISHABLE_KEY, TABLE } = process.env;
const settings = { API_URL, EMAIL, PASSWORD, PRIVATE, PUBLISHABLE_KEY, TABLE };

async function application(createClient, { API_URL, PUBLISHABLE_KEY, EMAIL, PASSWORD, TABLE, PRIVATE }) {
  const seen = { broadcasts: [], joins: [], leaves: [], changes: [], private: [] };

  function need({ data, error }) {
    if (error) throw error;
    return data;
  }

  async function signedIn() {
    const client = createClient(API_URL, PUBLISHABLE_KEY, { auth: { persistSession: false, autoRefreshToken: false } });
    need(await client.auth.signInWithPassword({ email: EMAIL, password: PASSWORD }));
    await client.realtime.setAuth();
    return client;
  }

  const joined = (channel) =>
    new Promise((resolve, reject) =>
      channel.subscribe((status, error) => {
        if (status === 'SUBSCRIBED') resolve();
        if (status === 'CHANNEL_ERROR' || status === 'TIMED_OUT') reject(error ?? new Error(status));
      }),
    );

  async function until(condition) {
    for (let waited = 0; !condition(); waited += 20) {
      if (waited > 15_000) throw new Error(`timed out; seen so far: ${JSON.stringify(seen)}`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  const [ann, bob] = [await signedIn(), await signedIn()];
  const room = ann.channel('room', { config: { broadcast: { self: true, ack: true }, presence: { key: 'ann' } } });
  room.on('presence', { event: 'join' }, ({ key }) => seen.joins.push(key));
  room.on('presence', { event: 'leave' }, ({ key }) => seen.leaves.push(key));
  room.on('broadcast', { event: 'hello' }, ({ payload }) => seen.broadcasts.push(payload.from));
  const same = bob.channel('room', { config: { presence: { key: 'bob' } } });
  same.on('presence', { event: 'sync' }, () => (seen.online = Object.keys(same.presenceState()).sort()));
  same.on('broadcast', { event: 'bytes' }, ({ payload }) => (seen.bytes = [...new Uint8Array(payload)]));
  await Promise.all([joined(room), joined(same)]);
  await room.track({ name: 'Ann' });
  await same.track({ name: 'Bob' });
  await until(() => seen.online?.length === 2);
  seen.ack = await room.send({ type: 'broadcast', event: 'hello', payload: { from: 'ann, é' } });
  await same.send({ type: 'broadcast', event: 'hello', payload: { from: 'bob' } });
  await same.httpSend('hello', { from: 'http' });
  await room.send({ type: 'broadcast', event: 'bytes', payload: new Uint8Array([0, 255, 7]).buffer });
  await until(() => seen.broadcasts.length === 3 && seen.bytes);

  const changes = ann.channel('changes');
  let confirmed = 0;
  changes.on('system', {}, ({ status }) => (confirmed += status === 'ok' ? 1 : 0));
  changes.on('postgres_changes', { event: '*', schema: 'public', table: TABLE, filter: 'size=gte.2' }, (change) =>
    seen.changes.push([change.eventType, change.new.title ?? null, Object.keys(change.old)]),
  );
  await joined(changes);
  await until(() => confirmed === 1);
  const rows = need(
    await bob
      .from(TABLE)
      .insert([
        { title: 'small', size: 1 },
        { title: 'big', size: 2 },
      ])
      .select('id, title'),
  );
  need(await bob.from(TABLE).update({ title: 'bigger' }).eq('id', rows[1].id));
  await until(() => seen.changes.length === 2);

  const own = ann.channel(PRIVATE, { config: { private: true } });
  own.on('broadcast', { event: '*' }, ({ event, payload }) => seen.private.push([event, payload.record.title]));
  await joined(own);
  need(await bob.from(TABLE).insert({ title: 'announced', size: 0 }));
  await until(() => seen.private.length === 1);
  seen.refused = await joined(bob.channel('unknown:topic', { config: { private: true } })).catch(({ message }) => message);

  await bob.removeAllChannels();
  await until(() => seen.leaves.length === 1);
  return seen;
}

async function inChromium() {
  const { chromium } = createRequire(new URL('../../examples/web/package.json', import.meta.url))('playwright-core');
  const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
  try {
    const page = await browser.newPage();
    await page.goto(`${API_URL}/health`);
    await page.addScriptTag({ path: 'node_modules/@supabase/supabase-js/dist/umd/supabase.js' });
    return await page.evaluate(`(${application})(supabase.createClient, ${JSON.stringify(settings)})`);
  } finally {
    await browser.close();
  }
}

console.log(JSON.stringify(await (CHROMIUM ? inChromium() : application(createClient, settings))));
process.exit(0);
