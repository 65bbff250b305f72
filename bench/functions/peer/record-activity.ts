// record-activity as people would write it as a Supabase Edge Function: supabase-js as the caller, one insert.
import { createClient } from "@supabase/supabase-js";

const [url, key] = [Deno.env.get("SUPABASE_URL")!, Deno.env.get("SUPABASE_PUBLISHABLE_KEY")!];
const cors = { "access-control-allow-origin": "*", "access-control-allow-headers": "authorization, apikey, content-type" };

Deno.serve({ hostname: "127.0.0.1", port: Number(Deno.env.get("PORT")), onListen: () => console.log("ready") }, async (request) => {
  if (request.method === "OPTIONS") return new Response(null, { status: 204, headers: cors });
  const supabase = createClient(url, key, {
    global: { headers: { Authorization: request.headers.get("authorization") ?? "" } },
    auth: { persistSession: false, autoRefreshToken: false },
  });
  const { type, title, entity_type, entity_id, action, metadata } = await request.json();
  const entry = { organization_id: Deno.env.get("ORGANIZATION"), type, title, entity_type, entity_id, action, metadata };
  const { data, error } = await supabase.from("activity_feeds").insert(entry).select("id, created_at").single();
  return Response.json(error ?? data, { status: error ? 400 : 201, headers: cors });
});
