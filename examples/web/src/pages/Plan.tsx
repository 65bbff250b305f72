// Change the plan: Stripe's own preview first, then the change.
import { useState } from 'react';
import type { Schemas } from '@strive/client';
import { Modal, Problem, Waiting } from '../parts';
import { cents, day, functions, ok, supabase, useAction, useLoad, words, type Organization, type Row } from '../strive';
import { PlanCard } from './Onboarding';

export function Plan({ organization, onChange }: { organization: Organization; onChange: () => Promise<void> }) {
  const plans = useLoad('plans', () =>
    ok(supabase.from('plans').select('*').eq('is_active', true).eq('billing_cycle', 'MONTHLY').gt('amount_cents', 0).order('amount_cents')),
  );
  const [wanted, setWanted] = useState<{ plan: Row<'plans'>; preview: Schemas['PlanChangePreview'] }>();
  const [done, setDone] = useState('');
  const { busy, error, run } = useAction();
  const request = (plan: Row<'plans'>) => ({ body: { tier: plan.tier, billing_cycle: plan.billing_cycle } });
  const preview = (plan: Row<'plans'>) =>
    run(async () => setWanted({ plan, preview: await ok(functions.POST('/preview-plan-change', request(plan))) }));
  const confirm = (plan: Row<'plans'>) =>
    run(async () => {
      const changed = await ok(functions.POST('/change-plan', request(plan)));
      setWanted(undefined);
      setDone(changed.takes_effect === 'NOW' ? `You have ${words(plan.tier)} now.` : `${words(plan.tier)} begins on ${day(changed.effective_at)}.`);
      await onChange();
    });
  if (organization.role !== 'OWNER') return <p>Only the owner can change the plan. Your plan is {words(organization.subscription_tier)}.</p>;
  return (
    <>
      {done && <p role="status" className="notice">{done}</p>}
      {!wanted && <Problem error={error ?? plans.error} />}
      {!plans.data && <Waiting />}
      <div className="plans">
        {plans.data?.map((plan) => (
          <PlanCard key={plan.id} plan={plan} busy={busy} isCurrent={plan.tier === organization.subscription_tier} onChoose={() => preview(plan)} />
        ))}
      </div>
      {wanted && (
        <Modal title={`Change to ${words(wanted.plan.tier)}`} onClose={() => setWanted(undefined)}>
          <Sums preview={wanted.preview} />
          <Problem error={error} />
          <button type="button" disabled={busy} onClick={() => confirm(wanted.plan)}>{busy ? 'Changing…' : 'Confirm the change'}</button>
        </Modal>
      )}
    </>
  );
}

function Sums({ preview }: { preview: Schemas['PlanChangePreview'] }) {
  const { currency, due_now, lines, next_invoice, takes_effect, effective_at } = preview;
  return (
    <>
      <p>{takes_effect === 'NOW' ? 'It takes effect now.' : `It takes effect on ${day(effective_at)}.`}</p>
      <ul className="rows">
        {lines.map((line, index) => <li key={index}><span>{line.description}</span><span>{cents(line.amount_cents, currency)}</span></li>)}
        {due_now && <li><strong>Due now</strong><strong>{cents(due_now.amount_due_cents, currency)}</strong></li>}
        {next_invoice && <li><span>Next invoice, {day(next_invoice.at)}</span><span>{cents(next_invoice.amount_due_cents, currency)}</span></li>}
      </ul>
    </>
  );
}
