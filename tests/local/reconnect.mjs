// Listens to a table with supabase-js for as long as it runs: prints each confirmation and each change.
import { createClient } from '@supabase/supabase-js';

const { API_URL, PUBLISHABLE_KEY, EMAIL, PASSWORD, TABLE } = process.env;
const client = createClient(API_URL, PUBLISHABLE_KEY, { auth: { persistSession: false, autoRefreshToken: false } });
const { error } = await client.auth.signInWithPassword({ email: EMAIL, password: PASSWORD });
if (error) throw error;
await client.realtime.setAuth();
client
  .channel('kept')
  .on('system', {}, ({ message }) => console.log(message))
  .on('postgres_changes', { event: '*', schema: 'public', table: TABLE }, (change) =>
    console.log(change.eventType, change.new.title),
  )
  .subscribe();
