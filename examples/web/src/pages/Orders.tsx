// Order an agent: a draft is a row, its submission is a function, because it costs money and counts towards the plan.
import { useState } from 'react';
import { Card, Choice, Field, Problem } from '../parts';
import { day, dollars, functions, ok, supabase, useAction, useChannel, useLoad, words, type Enum, type Organization } from '../strive';

type Complexity = Enum<'ComplexityLevel'>;
type Quota = { tier: string; allowed: number | null; used: number; renews_at: string };

const COMPLEXITIES: Record<string, string> = { SIMPLE: 'Simple', MODERATE: 'Moderate', COMPLEX: 'Complex' };
const INTEGRATIONS = ['gmail', 'calendar', 'whatsapp'];

export function Orders({ organization }: { organization: Organization }) {
  const orders = useLoad('orders', () =>
    ok(supabase.from('custom_agent_orders').select('id, title, status, progress, estimated_cost, created_at').order('created_at', { ascending: false }).limit(20)),
  );
  const quota = useLoad('quota', () => ok(supabase.rpc('order_quota')) as Promise<unknown> as Promise<Quota>);
  useChannel(`org:${organization.id}:orders`, orders.reload);
  const [complexity, setComplexity] = useState<Complexity>('SIMPLE');
  const [integrations, setIntegrations] = useState<string[]>(['gmail']);
  const requirements = { integrations, custom_ui: false, multi_model: false, advanced_memory: false };
  const estimate = useLoad(`${complexity}:${integrations}`, async () =>
    (await ok(supabase.rpc('estimate_order', { complexity, requirements }))) as { estimated_cost: number; estimated_hours: number },
  );
  const action = useAction();
  const order = (form: HTMLFormElement) =>
    action.run(async () => {
      const values = new FormData(form);
      const draft = await ok(
        supabase.from('custom_agent_orders').insert({
          organization_id: organization.id, title: String(values.get('title')), description: String(values.get('description')),
          use_case: 'support', complexity, requirements, agent_config: {}, tools_config: {},
        }).select('id').single(),
      );
      const header = { 'Idempotency-Key': draft.id }; // a repeated submission has one effect
      await ok(functions.POST('/submit-order', { params: { header }, body: { order_id: draft.id } }));
      form.reset();
      await Promise.all([orders.reload(), quota.reload()]);
    });
  const left = quota.data && (quota.data.allowed === null ? 'any number' : `${Math.max(0, quota.data.allowed - quota.data.used)} of ${quota.data.allowed}`);
  return (
    <div className="columns">
      <Card title="Order an agent" aside={left && <span className="soft">{left} left this month</span>}>
        <form className="stack" onSubmit={(event) => (event.preventDefault(), order(event.currentTarget))}>
          <Field label="Name" name="title" required maxLength={255} />
          <Field label="What should it do?" name="description" required maxLength={2000} />
          <Choice label="Complexity" options={COMPLEXITIES} value={complexity} onChange={(event) => setComplexity(event.target.value as Complexity)} />
          <fieldset>
            <legend>Works with</legend>
            {INTEGRATIONS.map((each) => (
              <label key={each}>
                <input type="checkbox" checked={integrations.includes(each)}
                  onChange={(event) => setIntegrations(event.target.checked ? [...integrations, each] : integrations.filter((other) => other !== each))} />
                {words(each)}
              </label>
            ))}
          </fieldset>
          {estimate.data && <p role="status">About {dollars(estimate.data.estimated_cost)}, {estimate.data.estimated_hours} hours of work.</p>}
          <Problem error={action.error ?? estimate.error ?? quota.error} />
          <button disabled={action.busy}>Order</button>
        </form>
      </Card>
      <Card title="Your orders">
        <Problem error={orders.error} />
        <ul className="rows" aria-label="Orders">
          {orders.data?.map((each) => (
            <li key={each.id}>
              <span>{each.title} <small className="soft">{day(each.created_at)}</small></span>
              <span><span className="pill">{words(each.status)}</span> {each.estimated_cost != null && dollars(each.estimated_cost)}</span>
            </li>
          ))}
        </ul>
        {orders.data?.length === 0 && <p className="soft">No orders yet.</p>}
      </Card>
    </div>
  );
}
