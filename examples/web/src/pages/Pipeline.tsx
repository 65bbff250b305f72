// Deals by stage. Cards move by mouse, or by the list on each card: that one serves keyboards and phones.
import { useState } from 'react';
import { Files } from '../Files';
import { Choice, Field, Modal, Problem, Waiting } from '../parts';
import { day, dollars, ok, supabase, useAction, useChannel, useLoad, words, type Enum, type Organization, type Row } from '../strive';

type Stage = Enum<'DealStage'>;
type Deal = Pick<Row<'deals'>, 'id' | 'title' | 'value' | 'stage' | 'expected_close_date'>;

const STAGES: Stage[] = ['LEAD', 'QUALIFIED', 'PROPOSAL', 'NEGOTIATION', 'CLOSING', 'CLOSED_WON', 'CLOSED_LOST'];
const NAMES = Object.fromEntries(STAGES.map((stage) => [stage, words(stage.replace('CLOSED_', ''))])) as Record<Stage, string>;
const REASONS = ['Price', 'Bought elsewhere', 'Financing failed', 'No answer'];
const SHOWN = 12;

export function Pipeline({ organization }: { organization: Organization }) {
  const { data, error, reload, setData } = useLoad('deals', () =>
    ok(supabase.from('deals').select('id, title, value, stage, expected_close_date').order('updated_at', { ascending: false }).limit(200)),
  );
  useChannel(`org:${organization.id}:crm`, reload);
  const action = useAction();
  const [opened, setOpened] = useState<Deal>();
  const [lost, setLost] = useState<Deal>();

  const move = (deal: Deal, stage: Stage, reason?: string) => {
    if (deal.stage === stage) return;
    if (stage === 'CLOSED_LOST' && !reason) return setLost(deal);
    setLost(undefined);
    void action.run(async () => {
      setData((deals) => deals?.map((each) => (each.id === deal.id ? { ...each, stage } : each)));
      try {
        await ok(supabase.rpc('move_deal', { deal_id: deal.id, stage, ...(reason && { lost_reason: reason }) }));
      } finally {
        await reload(); // after a refusal, too: the card returns to its stage
      }
    });
  };
  const add = (form: HTMLFormElement) =>
    action.run(async () => {
      const values = new FormData(form);
      await ok(supabase.from('deals').insert({ title: String(values.get('title')), value: Number(values.get('value')) }));
      form.reset();
      await reload();
    });

  if (!data) return error ? <Problem error={error} /> : <Waiting />;
  return (
    <>
      {organization.role !== 'VIEWER' && (
        <form className="inline card" onSubmit={(event) => (event.preventDefault(), add(event.currentTarget))}>
          <Field label="New deal" name="title" required maxLength={255} />
          <Field label="Value in dollars" name="value" type="number" min="0" required />
          <button disabled={action.busy}>Add</button>
        </form>
      )}
      <Problem error={action.error ?? error} />
      <div className="board">
        {STAGES.map((stage) => (
          <Column key={stage} stage={stage} deals={data.filter((deal) => deal.stage === stage)} onOpen={setOpened}
            onMove={(deal, target) => move(deal, target)} onDrop={(id) => move(data.find((deal) => deal.id === id)!, stage)} />
        ))}
      </div>
      {opened && (
        <Modal title={opened.title} onClose={() => setOpened(undefined)}>
          <p>{NAMES[opened.stage]}, {dollars(opened.value)}</p>
          <Files table="deals" id={opened.id} />
        </Modal>
      )}
      {lost && (
        <Modal title="Why was it lost?" onClose={() => setLost(undefined)}>
          <form className="stack" onSubmit={(event) => (event.preventDefault(), move(lost, 'CLOSED_LOST', String(new FormData(event.currentTarget).get('reason'))))}>
            <Choice label="Reason" name="reason" options={Object.fromEntries(REASONS.map((reason) => [reason, reason]))} />
            <button>Close the deal</button>
          </form>
        </Modal>
      )}
    </>
  );
}

function Column({ stage, deals, onOpen, onMove, onDrop }: {
  stage: Stage;
  deals: Deal[];
  onOpen: (deal: Deal) => void;
  onMove: (deal: Deal, stage: Stage) => void;
  onDrop: (id: string) => void;
}) {
  const [isOver, setOver] = useState(false);
  const total = deals.reduce((sum, deal) => sum + deal.value, 0);
  return (
    <section className={`column ${isOver ? 'over' : ''}`} aria-label={NAMES[stage]}
      onDragOver={(event) => (event.preventDefault(), setOver(true))} onDragLeave={() => setOver(false)}
      onDrop={(event) => (event.preventDefault(), setOver(false), onDrop(event.dataTransfer.getData('text/plain')))}>
      <header><h2>{NAMES[stage]}</h2><span className="soft">{deals.length} · {dollars(total)}</span></header>
      <ul>
        {deals.slice(0, SHOWN).map((deal) => (
          <li key={deal.id} className="deal" draggable
            onDragStart={(event) => event.dataTransfer.setData('text/plain', deal.id)}>
            <button type="button" className="link" onClick={() => onOpen(deal)}>{deal.title}</button>
            <p><strong>{dollars(deal.value)}</strong> {deal.expected_close_date && <span className="soft">by {day(deal.expected_close_date)}</span>}</p>
            <select aria-label={`Stage of ${deal.title}`} value={deal.stage} onChange={(event) => onMove(deal, event.target.value as Stage)}>
              {STAGES.map((each) => <option key={each} value={each}>{NAMES[each]}</option>)}
            </select>
          </li>
        ))}
      </ul>
      {deals.length > SHOWN && <p className="soft">and {deals.length - SHOWN} more</p>}
    </section>
  );
}
