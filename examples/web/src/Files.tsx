import { Problem } from './parts';
import { ok, supabase, useAction, useLoad } from './strive';

/** The files of a record: the database names the path, Storage keeps the bytes, and a row of `attachments` appears. */
export function Files({ table, id }: { table: string; id: string }) {
  const { data, error, reload } = useLoad(`${table}:${id}`, () =>
    ok(supabase.from('attachments').select('id, file_name, file_size, file_path').eq('entity_type', table)
      .eq('entity_id', id).not('stored_at', 'is', null).order('created_at')),
  );
  const action = useAction();
  const upload = (file: File | undefined) =>
    file && action.run(async () => {
      const place = (await ok(
        supabase.rpc('attachment_path', { entity_type: table, entity_id: id, file_name: file.name }),
      )) as { bucket: string; path: string };
      await ok(supabase.storage.from(place.bucket).upload(place.path, file));
      await reload();
    });
  const open = (path: string) =>
    action.run(async () => {
      const { signedUrl } = await ok(supabase.storage.from('attachments').createSignedUrl(path, 60, { download: true }));
      location.assign(signedUrl);
    });
  return (
    <div className="stack">
      <h3>Files</h3>
      <ul className="rows">
        {data?.map((file) => (
          <li key={file.id}>
            <button type="button" className="link" onClick={() => open(file.file_path)}>{file.file_name}</button>
            <span className="soft">{Math.ceil(file.file_size / 1024)} kB</span>
          </li>
        ))}
      </ul>
      {data?.length === 0 && <p className="soft">No files yet.</p>}
      <Problem error={action.error ?? error} />
      <label className="field">
        Add a file
        <input type="file" disabled={action.busy} onChange={(event) => upload(event.target.files?.[0])} />
      </label>
    </div>
  );
}
