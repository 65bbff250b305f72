// @supabase/stripe-sync-engine on the events of a file, so many at once; says how long it took and what it cost.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'

const [home, url, file, atOnce] = process.argv.slice(2)
const { StripeSync, runMigrations } = createRequire(`${home}/`)('@supabase/stripe-sync-engine')
const logger = { info() {}, error: console.error }

await runMigrations({ databaseUrl: url, schema: 'stripe', logger })
const sync = new StripeSync({
  poolConfig: { connectionString: url, max: Number(atOnce) },
  stripeSecretKey: 'sk_test_bench',
  stripeWebhookSecret: process.env.WEBHOOK_SECRET,
  backfillRelatedEntities: false,
  autoExpandLists: false,
})
const deliveries = readFileSync(file, 'utf8').trim().split('\n').map((line) => JSON.parse(line))
await sync.processWebhook(deliveries[0].body, deliveries[0].signature)

const cpu = process.cpuUsage()
const began = performance.now()
let next = 0
let failed = 0
await Promise.all(
  Array.from({ length: Number(atOnce) }, async () => {
    while (next < deliveries.length) {
      const { body, signature } = deliveries[next++]
      try {
        await sync.processWebhook(body, signature)
      } catch (error) {
        if (failed++ === 0) console.error(error)
      }
    }
  }),
)
const spent = process.cpuUsage(cpu)
console.log(JSON.stringify({
  seconds: (performance.now() - began) / 1000,
  cpu_seconds: (spent.user + spent.system) / 1e6,
  failed,
}))
process.exit(0)
