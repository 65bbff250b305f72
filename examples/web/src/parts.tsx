// Small parts of the interface.
import { useEffect, useRef, type ReactNode } from 'react';
import { Refused } from './strive';

export function Problem({ error }: { error: Error | undefined }) {
  if (!error) return null;
  const hint = error instanceof Refused ? error.hint : null;
  return <p role="alert" className="problem">{hint ? `${error.message.replace(/\.?$/, '.')} ${hint}` : error.message}</p>;
}

export function Card({ title, aside, children, className = '' }: {
  title: string;
  aside?: ReactNode;
  children: ReactNode;
  className?: string;
}) {
  return (
    <section className={`card ${className}`} aria-label={title}>
      <header>
        <h2>{title}</h2>
        {aside}
      </header>
      {children}
    </section>
  );
}

export function Field({ label, ...input }: { label: string } & React.InputHTMLAttributes<HTMLInputElement>) {
  return (
    <label className="field">
      {label}
      <input {...input} />
    </label>
  );
}

export function Choice({ label, options, ...select }: {
  label: string;
  options: Record<string, string>;
} & React.SelectHTMLAttributes<HTMLSelectElement>) {
  return (
    <label className="field">
      {label}
      <select {...select}>
        {Object.entries(options).map(([value, text]) => (
          <option key={value} value={value}>{text}</option>
        ))}
      </select>
    </label>
  );
}

/** A modal dialog: Escape and the button close it, and the focus returns to where it was. */
export function Modal({ title, onClose, children }: { title: string; onClose: () => void; children: ReactNode }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const element = dialog.current;
    element?.showModal();
    return () => element?.close();
  }, []);
  return (
    <dialog ref={dialog} aria-label={title} onCancel={onClose}>
      <header>
        <h2>{title}</h2>
        <button type="button" className="quiet" onClick={onClose}>Close</button>
      </header>
      {children}
    </dialog>
  );
}

export const Waiting = () => <p className="soft" role="status">Loading…</p>;
