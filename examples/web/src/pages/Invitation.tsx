import { Problem } from '../parts';
import { ok, supabase, useAction } from '../strive';

export function Invitation({ token }: { token: string }) {
  const { busy, error, run } = useAction();
  const accept = () =>
    run(async () => {
      const joined = (await ok(supabase.rpc('accept_invitation', { token }))) as { organization_id: string };
      await ok(supabase.rpc('set_current_organization', { id: joined.organization_id }));
      await supabase.auth.refreshSession();
      location.hash = '#/dashboard';
    });
  return (
    <main className="narrow">
      <h1>You are invited</h1>
      <div className="card stack">
        <p>Accept to work with this team.</p>
        <Problem error={error} />
        <button type="button" disabled={busy} onClick={accept}>Accept the invitation</button>
        <a href="#/dashboard">Not now</a>
      </div>
    </main>
  );
}
