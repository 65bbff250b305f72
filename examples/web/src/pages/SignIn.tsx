import { useState } from 'react';
import { Field, Problem } from '../parts';
import { ok, supabase, useAction } from '../strive';

export function SignIn({ invited }: { invited: boolean }) {
  const [isNew, setNew] = useState(invited);
  const { busy, error, run } = useAction();
  const submit = (form: FormData) =>
    run(async () => {
      const who = { email: String(form.get('email')), password: String(form.get('password')) };
      if (isNew) await ok(supabase.auth.signUp({ ...who, options: { data: { name: String(form.get('name')) } } }));
      else await ok(supabase.auth.signInWithPassword(who));
    });
  return (
    <main className="narrow">
      <h1>{isNew ? 'Create your account' : 'Welcome back'}</h1>
      {invited && <p>You are invited. Sign up or sign in with the address that received the invitation.</p>}
      <form className="card stack" onSubmit={(event) => (event.preventDefault(), submit(new FormData(event.currentTarget)))}>
        {isNew && <Field label="Your name" name="name" autoComplete="name" required maxLength={255} />}
        <Field label="Email" name="email" type="email" autoComplete="email" required />
        <Field label="Password" name="password" type="password" minLength={8} required
          autoComplete={isNew ? 'new-password' : 'current-password'} />
        <Problem error={error} />
        <button disabled={busy}>{isNew ? 'Sign up' : 'Sign in'}</button>
      </form>
      <button type="button" className="quiet" onClick={() => setNew(!isNew)}>
        {isNew ? 'I have an account' : 'I am new here'}
      </button>
    </main>
  );
}
