// What an application written with supabase-js does, against any Supabase: prints what it saw as JSON.
import { createClient } from '@supabase/supabase-js';

const { API_URL, PUBLISHABLE_KEY, EMAIL, PASSWORD, BUCKET, FUNCTION } = process.env;
const supabase = createClient(API_URL, PUBLISHABLE_KEY, { auth: { persistSession: false, autoRefreshToken: false } });
const seen = {};

function need({ data, error }) {
  if (error) throw error;
  return data;
}

const { user } = need(
  await supabase.auth.signUp({ email: EMAIL, password: PASSWORD, options: { data: { name: 'JS' } } }),
);
need(await supabase.auth.signInWithPassword({ email: EMAIL, password: PASSWORD }));
seen.sameUser = need(await supabase.auth.getUser()).user.id === user.id;
seen.claims = need(await supabase.auth.getClaims()).claims.email === EMAIL;
need(await supabase.auth.refreshSession());

seen.books = need(
  await supabase.from('books').select('title, author:authors!author_id(name)').lte('id', 3).order('id'),
);
seen.count = (await supabase.from('books').select('*', { count: 'exact', head: true }).lte('id', 3)).count;
seen.inserted = need(
  await supabase
    .from('diaries')
    .insert([{ text: 'one' }, { text: 'two' }])
    .select('text'),
);
seen.none = need(await supabase.from('diaries').select('text').eq('text', 'three').maybeSingle());
seen.sum = need(await supabase.rpc('add', { a: 20, b: 22 }));
seen.refused = (await supabase.from('vault').select()).error.code;

const files = supabase.storage.from(BUCKET);
const path = `${user.id}/notes.txt`;
need(await files.upload(path, new Blob(['from js'], { type: 'text/plain' }), { metadata: { by: 'js' } }));
seen.file = await need(await files.download(path)).text();
seen.metadata = need(await files.info(path)).metadata;
seen.list = need(await files.list(user.id)).map(({ name }) => name);
seen.signed = await (await fetch(need(await files.createSignedUrl(path, 60)).signedUrl)).text();
const { token } = need(await files.createSignedUploadUrl(`${user.id}/signed.txt`));
seen.uploaded =
  need(await files.uploadToSignedUrl(`${user.id}/signed.txt`, token, 'signed')).path === `${user.id}/signed.txt`;
seen.removed = need(await files.remove([path])).map(({ name }) => name === path);

seen.invoked = need(await supabase.functions.invoke(FUNCTION, { body: { hello: 'function' } }));
need(await supabase.auth.signOut());
seen.after = need(await supabase.auth.getSession()).session;
console.log(JSON.stringify(seen));
