// Typed access to a Strive project. The two type files are generated: `make schema`.
import { createClient, type SupabaseClient, type SupabaseClientOptions } from '@supabase/supabase-js';
import createFunctionsClient, { type Client } from 'openapi-fetch';
import type { Database } from './database.types.js';
import type { components, paths } from './functions.types.js';

export type { Database, Json, Tables, TablesInsert, TablesUpdate, Enums } from './database.types.js';
export type Schemas = components['schemas'];
export type ApiError = Schemas['Error'];

export interface Strive {
  /** Tables, views, rpcs, Auth, Storage and Realtime. */
  supabase: SupabaseClient<Database>;
  /** The functions under `/functions/v1`: `await functions.POST('/submit-order', { body })`. */
  functions: Client<paths>;
}

export interface StriveOptions {
  /** The organization to act in (`x-org-id`); read at each request. */
  organization?: () => string | undefined;
  supabase?: SupabaseClientOptions<'public'>;
}

/** Connect to a project by its URL and publishable key. */
export function createStrive(url: string, publishableKey: string, options: StriveOptions = {}): Strive {
  const supabase = createClient<Database>(url, publishableKey, options.supabase);
  const functions = createFunctionsClient<paths>({ baseUrl: `${url.replace(/\/$/, '')}/functions/v1` });
  functions.use({
    async onRequest({ request }) {
      const { data } = await supabase.auth.getSession();
      request.headers.set('apikey', publishableKey);
      if (data.session) request.headers.set('authorization', `Bearer ${data.session.access_token}`);
      const organization = options.organization?.();
      if (organization) request.headers.set('x-org-id', organization);
      return request;
    },
  });
  return { supabase, functions };
}
