import type { Session } from '@supabase/supabase-js';
import { useEffect, useState } from 'react';
import { startFlags, stopFlags } from './flags';
import { Dashboard } from './pages/Dashboard';
import { Invitation } from './pages/Invitation';
import { Onboarding } from './pages/Onboarding';
import { Orders } from './pages/Orders';
import { People } from './pages/People';
import { Pipeline } from './pages/Pipeline';
import { Plan } from './pages/Plan';
import { SignIn } from './pages/SignIn';
import { Problem, Waiting } from './parts';
import { ok, supabase, useLoad, type Organization } from './strive';

const PAGES = { dashboard: Dashboard, pipeline: Pipeline, agents: Orders, people: People, plan: Plan };
const NAMES = { dashboard: 'Dashboard', pipeline: 'Pipeline', agents: 'Agents', people: 'People', plan: 'Plan' };
type Name = keyof typeof PAGES;

/** The page and its argument after `#/`: a static server needs no rules for such addresses. */
function useRoute(): [string, string] {
  const read = () => location.hash.replace(/^#\/?/, '');
  const [route, setRoute] = useState(read);
  useEffect(() => {
    const listen = () => setRoute(read());
    addEventListener('hashchange', listen);
    return () => removeEventListener('hashchange', listen);
  }, []);
  const [page = '', argument = ''] = route.split('/');
  return [page, argument];
}

function useSession(): Session | null | undefined {
  const [session, setSession] = useState<Session | null>();
  useEffect(() => {
    const { data } = supabase.auth.onAuthStateChange((_event, found) => {
      setSession(found);
      // supabase-js holds a lock during this callback: other requests wait until it has returned.
      setTimeout(() => void (found ? startFlags(found) : stopFlags()));
    });
    return () => data.subscription.unsubscribe();
  }, []);
  return session;
}

export function App() {
  const session = useSession();
  const [page, argument] = useRoute();
  if (session === undefined) return <Waiting />;
  if (!session) return <SignIn invited={page === 'invitation'} />;
  if (page === 'invitation') return <Invitation token={argument} />;
  return <SignedIn key={session.user.id} email={session.user.email ?? ''} page={page} />;
}

function SignedIn({ email, page }: { email: string; page: string }) {
  const { data, error, reload } = useLoad('organizations', () => ok(supabase.rpc('my_organizations')) as Promise<Organization[]>);
  if (!data) return error ? <Problem error={error} /> : <Waiting />;
  const [moved, here] = [data.find((each) => each.moved_to), data.filter((each) => !each.moved_to)];
  if (moved && !here.length) return <Problem error={new Error(`${moved.name ?? 'Your organization'} has moved to ${moved.moved_to}.`)} />;
  const current = here.find((each) => each.is_current) ?? here[0];
  if (!current || page === 'onboarding') return <Onboarding onDone={reload} canLeave={Boolean(current)} />;
  return <Shell key={current.id} email={email} page={page} organization={current} all={here} onChange={reload} />;
}

function Shell({ email, page, organization, all, onChange }: {
  email: string;
  page: string;
  organization: Organization;
  all: Organization[];
  onChange: () => Promise<void>;
}) {
  const name: Name = page in PAGES ? (page as Name) : 'dashboard';
  const Page = PAGES[name];
  useEffect(() => void (document.title = `${NAMES[name]} · ${organization.name}`), [name, organization.name]);
  const choose = async (id: string) => {
    await ok(supabase.rpc('set_current_organization', { id }));
    await supabase.auth.refreshSession(); // the new token names the organization
    await onChange();
  };
  return (
    <div className="shell">
      <a className="skip" href="#main" onClick={(event) => (event.preventDefault(), document.getElementById('main')?.focus())}>
        Skip to the content
      </a>
      <header className="bar">
        <strong className="brand">Strive</strong>
        {all.length > 1 ? (
          <select aria-label="Organization" value={organization.id} onChange={(event) => void choose(event.target.value)}>
            {all.map((each) => <option key={each.id} value={each.id}>{each.name}</option>)}
          </select>
        ) : (
          <span>{organization.name}</span>
        )}
        <span className="pill">{organization.subscription_tier}</span>
        <span className="grow" />
        <span className="soft email">{email}</span>
        <button type="button" className="quiet" onClick={() => void supabase.auth.signOut()}>Sign out</button>
      </header>
      <nav aria-label="Pages">
        {Object.entries(NAMES).map(([each, title]) => (
          <a key={each} href={`#/${each}`} aria-current={each === name ? 'page' : undefined}>{title}</a>
        ))}
      </nav>
      <main id="main" tabIndex={-1}>
        <h1>{NAMES[name]}</h1>
        <Page organization={organization} onChange={onChange} />
      </main>
    </div>
  );
}
