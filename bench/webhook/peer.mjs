// @supabase/stripe-sync-engine, over HTTP, or on the events of two files: the first warms it, the second is measured.
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'

const [home, url, atOnce, ...files] = process.argv.slice(2)
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

async function deliver(file) {
  const deliveries = readFileSync(file, 'utf8').trim().split('\n').map((line) => JSON.parse(line))
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
  return { seconds: (performance.now() - began) / 1000, cpu_seconds: (spent.user + spent.system) / 1e6, failed }
}

if (files.length) {
  await deliver(files[0])
  console.log('warm')
  await once(process.stdin, 'data')
  console.log(JSON.stringify(await deliver(files[1])))
} else {
  const server = createServer(async (request, response) => {
    const chunks = []
    for await (const chunk of request) chunks.push(chunk)
    let status = 200
    try {
      await sync.processWebhook(Buffer.concat(chunks), request.headers['stripe-signature'])
    } catch (error) {
      console.error(error)
      status = 500
    }
    const body = JSON.stringify({ received: status === 200 })
    response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) })
    response.end(body)
  })
  server.listen(0, '127.0.0.1', () => console.log(server.address().port))
}
