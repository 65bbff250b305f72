// The connection to Strive, and the few helpers that every page uses.
import { createStrive, type ApiError, type Database } from '@strive/client';
import { useCallback, useEffect, useRef, useState } from 'react';

export const API_URL: string = import.meta.env.API_URL;
export const PUBLISHABLE_KEY: string = import.meta.env.PUBLISHABLE_KEY;
/** Address of the local test page for payments. Empty in production, where Stripe.js shows the payment form. */
export const TEST_PAYMENTS: string = import.meta.env.STRIPE_API_BASE ?? '';

export const { supabase, functions } = createStrive(API_URL, PUBLISHABLE_KEY);

export type Row<Name extends keyof Database['public']['Tables']> = Database['public']['Tables'][Name]['Row'];
export type Enum<Name extends keyof Database['public']['Enums']> = Database['public']['Enums'][Name];
type MyOrganization = Database['public']['CompositeTypes']['my_organization'];
// The generated types make every column of a row type nullable; here none is.
export type Organization = { [Column in keyof MyOrganization]: NonNullable<MyOrganization[Column]> };

/** A refused request. Tables and functions describe it in the same form. */
export class Refused extends Error {
  readonly code: string;
  readonly hint: string | null;
  constructor({ code, message, hint }: Partial<ApiError>) {
    super(message ?? 'The request failed.');
    this.code = code ?? '';
    this.hint = hint ?? null;
  }
}

/** The data of a response of supabase-js or of the functions; throws `Refused`. */
export async function ok<R extends { data?: unknown; error?: unknown }>(
  response: PromiseLike<R>,
): Promise<NonNullable<R['data']>> {
  const { data, error } = await response;
  if (error) throw new Refused(error);
  return data as NonNullable<R['data']>;
}

/** Loads when `key` changes and on `reload()`. Keeps the last data while it loads, or when it fails. */
export function useLoad<T>(key: string, load: () => Promise<T>) {
  const [data, setData] = useState<T>();
  const [error, setError] = useState<Error>();
  const latest = useRef(0);
  const loader = useRef(load);
  loader.current = load;
  const reload = useCallback(async () => {
    const number = ++latest.current;
    try {
      const loaded = await loader.current();
      if (number === latest.current) setData(loaded), setError(undefined);
    } catch (failure) {
      if (number === latest.current) setError(failure as Error);
    }
  }, []);
  useEffect(() => void reload(), [key, reload]);
  return { data, error, reload, setData };
}

/** Runs one action at a time and remembers why the last one failed. */
export function useAction() {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<Error>();
  const run = async (action: () => Promise<void>) => {
    setBusy(true);
    setError(undefined);
    try {
      await action();
    } catch (failure) {
      setError(failure as Error);
    } finally {
      setBusy(false);
    }
  };
  return { busy, error, run };
}

/** Calls `onChange` for every message of a private channel. The message has ids, so read the rows again. */
export function useChannel(name: string, onChange: () => void): boolean {
  const [live, setLive] = useState(false);
  const handler = useRef(onChange);
  handler.current = onChange;
  useEffect(() => {
    const channel = supabase.channel(name, { config: { private: true } });
    let ended = false;
    void supabase.realtime.setAuth().then(() => {
      if (ended) return;
      channel
        .on('broadcast', { event: '*' }, () => handler.current())
        .subscribe((status) => {
          setLive(status === 'SUBSCRIBED');
          if (status === 'SUBSCRIBED') handler.current(); // what happened before or during a lost connection
        });
    });
    return () => {
      ended = true;
      void supabase.removeChannel(channel);
    };
  }, [name]);
  return live;
}

const currency = (code: string, digits: number) =>
  new Intl.NumberFormat('en', { style: 'currency', currency: code, maximumFractionDigits: digits });
export const dollars = (amount: number) => currency('usd', 0).format(amount);
export const cents = (amount: number, code = 'usd') => currency(code, 2).format(amount / 100);
export const day = (date: string) => new Date(date).toLocaleDateString('en', { day: 'numeric', month: 'short' });
export const time = (date: string) =>
  new Date(date).toLocaleString('en', { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });
export const words = (name: string) => name.charAt(0) + name.slice(1).toLowerCase().replaceAll('_', ' ');
