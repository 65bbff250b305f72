import { useState } from 'react';
import { Card, Choice, Field, Problem } from '../parts';
import { ok, supabase, useAction, useLoad, words, type Enum, type Organization } from '../strive';

const ROLES = { MEMBER: 'Member', ADMIN: 'Admin', VIEWER: 'Viewer' };

export function People({ organization }: { organization: Organization }) {
  const { data, error } = useLoad('members', () =>
    ok(supabase.from('organization_members').select('user_id, role, users!organization_members_user_id_fkey(name, email)').order('role')),
  );
  const action = useAction();
  const [link, setLink] = useState('');
  const invite = (form: FormData) =>
    action.run(async () => {
      const role = String(form.get('role')) as Enum<'OrgRole'>;
      const made = (await ok(supabase.rpc('create_invitation', { email: String(form.get('email')), role }))) as { token: string };
      // The token is readable this once. Send the link to the invited address.
      setLink(`${location.origin}${location.pathname}#/invitation/${made.token}`);
    });
  return (
    <div className="columns">
      <Card title="Members">
        <Problem error={error} />
        <ul className="rows" aria-label="Members">
          {data?.map((member) => (
            <li key={member.user_id}>
              <span>{member.users?.name || member.users?.email} <small className="soft">{member.users?.email}</small></span>
              <span className="pill">{words(member.role)}</span>
            </li>
          ))}
        </ul>
      </Card>
      {(organization.role === 'OWNER' || organization.role === 'ADMIN') && (
        <Card title="Invite">
          <form className="stack" onSubmit={(event) => (event.preventDefault(), invite(new FormData(event.currentTarget)))}>
            <Field label="Email" name="email" type="email" required />
            <Choice label="Role" name="role" options={ROLES} />
            <Problem error={action.error} />
            <button disabled={action.busy}>Invite</button>
          </form>
          {link && <Field label="Link for the invited person" value={link} readOnly onFocus={(event) => event.target.select()} />}
        </Card>
      )}
    </div>
  );
}
