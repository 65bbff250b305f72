// The first screen: one request for the widgets, one channel for what happens next.
import type { Schemas } from '@strive/client';
import { Feed } from '../Feed';
import { useFlag } from '../flags';
import { Card, Problem, Waiting } from '../parts';
import { dollars, functions, ok, supabase, time, useLoad, words, type Organization } from '../strive';

type Widget = Schemas['Widget'];
type Metric = { value: number; change?: number | null; format?: string; series?: { group: string; value: number | null }[] };

export function Dashboard({ organization }: { organization: Organization }) {
  const { data, error } = useLoad('snapshot', () => ok(functions.POST('/dashboard-snapshot', { body: {} })));
  const suggestsBuyers = useFlag('crm.match-buyers');
  if (!data) return error ? <Problem error={error} /> : <Waiting />;
  const of = (type: Widget['type']) => data.widgets.filter((widget) => widget.type === type);
  return (
    <>
      {data.alerts.map((alert) => (
        <p key={alert.id} className="notice"><strong>{alert.title}.</strong> {alert.message}</p>
      ))}
      <div className="figures">{of('KPI_CARD').map((widget) => <Figure key={widget.id} widget={widget} />)}</div>
      <div className="columns">
        <Feed organization={organization} />
        {suggestsBuyers && <Buyers />}
        {of('CHART').map((widget) => <Chart key={widget.id} widget={widget} />)}
        {of('CALENDAR').map((widget) => <Week key={widget.id} widget={widget} />)}
      </div>
    </>
  );
}

function Figure({ widget }: { widget: Widget }) {
  const metric = widget.data as Metric | null;
  const change = metric?.change;
  return (
    <section className="card figure" aria-label={widget.title}>
      <h2>{widget.title}</h2>
      <p className="price">{metric ? (metric.format === 'currency' ? dollars(metric.value) : metric.value) : '–'}</p>
      {widget.error && <p className="soft">{widget.error.message}</p>}
      {change != null && (
        <p className={change < 0 ? 'down' : 'up'}>
          {change < 0 ? '▼' : '▲'} {Math.abs(change * 100).toFixed(0)} % <span className="soft">to the period before</span>
        </p>
      )}
    </section>
  );
}

function Chart({ widget }: { widget: Widget }) {
  const series = (widget.data as Metric | null)?.series ?? [];
  const highest = Math.max(1, ...series.map((point) => point.value ?? 0));
  const total = series.reduce((sum, point) => sum + (point.value ?? 0), 0);
  const width = 100 / Math.max(1, series.length);
  return (
    <Card title={widget.title} aside={<span className="soft">{total} in total</span>}>
      {widget.error && <Problem error={new Error(widget.error.message)} />}
      {total === 0 && <p className="soft">No data yet.</p>}
      <svg className="bars" viewBox="0 0 100 40" preserveAspectRatio="none" role="img"
        aria-label={series.map((point) => `${point.group}: ${point.value ?? 0}`).join(', ') || 'No data yet'}>
        {series.map((point, index) => {
          const height = (38 * (point.value ?? 0)) / highest;
          return <rect key={point.group} x={index * width + width * 0.12} y={40 - height} width={width * 0.76} height={height} />;
        })}
      </svg>
      {series.length > 0 && (
        <p className="ends soft"><span>{String(series[0]?.group)}</span><span>{String(series.at(-1)?.group)}</span></p>
      )}
    </Card>
  );
}

function Week({ widget }: { widget: Widget }) {
  const items = (widget.data as { id: string; title: string; start_time: string }[] | null) ?? [];
  return (
    <Card title={widget.title}>
      {items.length === 0 && <p className="soft">Nothing is planned.</p>}
      <ul className="rows">
        {items.slice(0, 6).map((item) => (
          <li key={item.id}><span>{item.title}</span><span className="soft">{time(item.start_time)}</span></li>
        ))}
      </ul>
    </Card>
  );
}

/** Behind the flag `crm.match-buyers`: who might buy the newest listing. */
function Buyers() {
  const { data, error } = useLoad('buyers', async () => {
    const [listing] = await ok(
      supabase.from('listings').select('id, title').eq('status', 'ACTIVE').order('created_at', { ascending: false }).limit(1),
    );
    const buyers = listing ? await ok(supabase.rpc('match_buyers', { listing_id: listing.id }).limit(5)) : [];
    return { listing, buyers };
  });
  return (
    <Card title="Suggested buyers" aside={<span className="soft">{data?.listing?.title}</span>}>
      <Problem error={error} />
      {data && data.buyers.length === 0 && <p className="soft">Add a listing to see who might buy it.</p>}
      <ul className="rows">
        {data?.buyers.map((buyer) => (
          <li key={buyer.id}><span>{buyer.name} <small className="soft">{words(buyer.kind)}</small></span><span>{dollars(buyer.budget)}</span></li>
        ))}
      </ul>
    </Card>
  );
}
