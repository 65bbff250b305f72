import react from '@vitejs/plugin-react';
import { defineConfig } from 'vite';

export default defineConfig({
  plugins: [react()],
  base: './',
  // The names of `strive status -o env`. Only these three reach the browser; none is a secret.
  envPrefix: ['API_URL', 'PUBLISHABLE_KEY', 'STRIPE_API_BASE'],
  resolve: {
    // In an application of its own: npm install @strive/client.
    alias: { '@strive/client': new URL('../../clients/typescript/src/index.ts', import.meta.url).pathname },
    dedupe: ['@supabase/supabase-js', 'openapi-fetch'],
  },
  server: { host: '127.0.0.1' },
  preview: { host: '127.0.0.1' },
});
