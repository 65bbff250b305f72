import { Card, Field, Problem } from './parts';
import { functions, ok, supabase, time, useAction, useChannel, useLoad, type Organization } from './strive';

export function Feed({ organization }: { organization: Organization }) {
  const { data, error, reload } = useLoad('feed', () =>
    ok(supabase.from('activity_feeds').select('id, title, created_at').order('created_at', { ascending: false }).limit(8)),
  );
  const live = useChannel(`org:${organization.id}:feed`, reload);
  const action = useAction();
  const share = (form: HTMLFormElement) =>
    action.run(async () => {
      const title = String(new FormData(form).get('title'));
      const body = { type: 'USER_ACTION' as const, title, entity_type: 'note', entity_id: 'example', action: 'shared' };
      await ok(functions.POST('/record-activity', { body }));
      form.reset();
    });
  return (
    <Card title="What happens" aside={<span className={live ? 'pill live' : 'pill'}>{live ? 'live' : 'connecting'}</span>}>
      <form className="inline" onSubmit={(event) => (event.preventDefault(), share(event.currentTarget))}>
        <Field label="Share with your team" name="title" required maxLength={200} />
        <button disabled={action.busy}>Share</button>
      </form>
      <Problem error={action.error ?? error} />
      <ol className="rows" aria-label="Feed" aria-live="polite">
        {data?.map((entry) => (
          <li key={entry.id}><span>{entry.title}</span><time className="soft" dateTime={entry.created_at}>{time(entry.created_at)}</time></li>
        ))}
      </ol>
      {data?.length === 0 && <p className="soft">Nothing has happened yet.</p>}
    </Card>
  );
}
