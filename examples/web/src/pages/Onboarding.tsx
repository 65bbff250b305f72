// From a name to an organization that is paid for, in the steps of docs/onboarding.md. A reload continues where it was.
import { useState } from 'react';
import type { Schemas } from '@strive/client';
import { Choice, Field, Problem, Waiting } from '../parts';
import { cents, functions, ok, supabase, TEST_PAYMENTS, useAction, useLoad, words, type Row } from '../strive';

type Step = Schemas['OnboardingSession'] & { client_secret?: string | null };

const CARDS = {
  '4242424242424242': '4242 4242 4242 4242 succeeds',
  '4000000000000002': '4000 0000 0000 0002 is declined',
};

export function Onboarding({ onDone, canLeave }: { onDone: () => Promise<void>; canLeave: boolean }) {
  const [step, setStep] = useState<Step>();
  const { busy, error, run } = useAction();
  const plans = useLoad('plans', () =>
    ok(supabase.from('plans').select('*').eq('is_active', true).eq('billing_cycle', 'MONTHLY').order('amount_cents')),
  );

  const name = (form: FormData) =>
    run(async () => {
      const created = await ok(functions.POST('/create-onboarding-session', { body: {} }));
      const body = { session_id: created.session_id, step: 1 as const, name: String(form.get('name')) };
      setStep(await ok(functions.POST('/update-onboarding-session', { body })));
    });
  const choose = (plan: Row<'plans'>) =>
    run(async () => {
      const session = { session_id: step!.session_id };
      const body = { ...session, step: 2 as const, tier: plan.tier, billing_cycle: plan.billing_cycle };
      const chosen = await ok(functions.POST('/update-onboarding-session', { body }));
      if (plan.amount_cents === 0) return complete(chosen);
      setStep(await ok(functions.POST('/start-onboarding-payment', { body: session })));
    });
  const pay = (form: FormData) =>
    run(async () => {
      // In production Stripe's own form takes the card: stripe.confirmPayment({ clientSecret: step.client_secret, … }).
      const card = new URLSearchParams({ card: String(form.get('card')) });
      await fetch(`${TEST_PAYMENTS}/pay/${step!.client_secret}`, { method: 'POST', mode: 'no-cors', body: card });
      await complete(step!);
    });
  const complete = async ({ session_id }: Step) => {
    const done = await ok(functions.POST('/complete-onboarding-session', { body: { session_id } }));
    await ok(supabase.rpc('set_current_organization', { id: done.organization!.id }));
    await supabase.auth.refreshSession();
    location.hash = '#/dashboard';
    await onDone();
  };

  const current = step?.client_secret ? 3 : step ? 2 : 1;
  return (
    <main className={current === 2 ? 'wide' : 'narrow'}>
      <p className="soft">Step {current} of 3</p>
      {current === 1 && (
        <>
          <h1>Name your organization</h1>
          <form className="card stack" onSubmit={(event) => (event.preventDefault(), name(new FormData(event.currentTarget)))}>
            <Field label="Name" name="name" required minLength={2} maxLength={100} autoComplete="organization" />
            <Problem error={error} />
            <button disabled={busy}>Continue</button>
          </form>
        </>
      )}
      {current === 2 && (
        <>
          <h1>Choose a plan</h1>
          <Problem error={error ?? plans.error} />
          {!plans.data && <Waiting />}
          <div className="plans">
            {plans.data?.map((plan) => <PlanCard key={plan.id} plan={plan} busy={busy} onChoose={() => choose(plan)} />)}
          </div>
        </>
      )}
      {current === 3 && (
        <>
          <h1>Pay {cents(step!.amount_cents ?? 0, step!.currency ?? 'usd')} a month</h1>
          <form className="card stack" onSubmit={(event) => (event.preventDefault(), pay(new FormData(event.currentTarget)))}>
            <Choice label="Test card" name="card" options={CARDS} />
            <Problem error={error} />
            <button disabled={busy}>{busy ? 'Paying…' : 'Pay'}</button>
          </form>
        </>
      )}
      {canLeave ? <a href="#/dashboard">Back</a> : (
        <button type="button" className="quiet" onClick={() => void supabase.auth.signOut()}>Sign out</button>
      )}
    </main>
  );
}

export function PlanCard({ plan, busy, isCurrent = false, onChoose }: {
  plan: Row<'plans'>;
  busy: boolean;
  isCurrent?: boolean;
  onChoose: () => void;
}) {
  const limits = plan.limits as Record<string, number | null>;
  const amount = (key: string, one: string, more = `${one}s`) => {
    const limit = limits[key] ?? Infinity;
    return `${limit === Infinity ? 'Any number of' : limit === 0 ? 'No' : limit.toLocaleString('en')} ${limit === 1 ? one : more}`;
  };
  return (
    <article className="card plan" aria-label={words(plan.tier)}>
      <h2>{words(plan.tier)}</h2>
      <p className="price">{cents(plan.amount_cents, plan.currency)}<small> a month</small></p>
      <ul>
        <li>{amount('members', 'member')}</li>
        <li>{amount('orders_per_month', 'agent order')} a month</li>
        <li>{amount('rows_per_table', 'record')} of each kind</li>
      </ul>
      {isCurrent ? <p className="pill">Your plan</p> : (
        <button type="button" disabled={busy} onClick={onChoose}>Choose {words(plan.tier)}</button>
      )}
    </article>
  );
}
