// Feature flags through OpenFeature. The provider polls, so a flag that is turned off disappears within two seconds.
import { OFREPWebProvider } from '@openfeature/ofrep-web-provider';
import { OpenFeature, ProviderEvents } from '@openfeature/web-sdk';
import type { Session } from '@supabase/supabase-js';
import { useSyncExternalStore } from 'react';
import { API_URL, PUBLISHABLE_KEY, supabase } from './strive';

let isStarted = false;

export async function startFlags({ user }: Session): Promise<void> {
  await OpenFeature.setContext({ targetingKey: user.id });
  if (isStarted) return;
  isStarted = true;
  const provider = new OFREPWebProvider({
    baseUrl: `${API_URL}/functions/v1/evaluate-flag`,
    headersFactory: async () => {
      const { data } = await supabase.auth.getSession(); // renews the token when it has expired
      return [['apikey', PUBLISHABLE_KEY], ['authorization', `Bearer ${data.session?.access_token}`]];
    },
    cacheMode: 'disabled', // a cache would show the flags of the last visit first
    pollInterval: 1500,
  });
  await OpenFeature.setProviderAndWait(provider).catch(() => undefined); // without flags every feature has its default
}

export async function stopFlags(): Promise<void> {
  isStarted = false;
  await OpenFeature.clearProviders();
}

const EVENTS = [
  ProviderEvents.Ready,
  ProviderEvents.ConfigurationChanged,
  ProviderEvents.ContextChanged,
  ProviderEvents.Error,
] as const;

function subscribe(onChange: () => void) {
  for (const event of EVENTS) OpenFeature.addHandler(event, onChange);
  return () => {
    for (const event of EVENTS) OpenFeature.removeHandler(event, onChange);
  };
}

export function useFlag(name: string): boolean {
  return useSyncExternalStore(subscribe, () => OpenFeature.getClient().getBooleanValue(name, false));
}
