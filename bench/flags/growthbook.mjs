// GrowthBook in V8, with the protocol of contenders.py. Its flags are loaded beforehand, the context is part of each call.
import { createInterface } from 'node:readline';
import { GrowthBookClient } from '@growthbook/growthbook';

const SECONDS = 0.2;

const conditions = ({ tiers, tree }) => ({
  tier: { $in: tiers },
  ...(tree && {
    seats: { $gte: tree.seats },
    country: { $in: tree.countries },
    $or: [{ plan: tree.plan }, { version: { $vgte: tree.version } }],
  }),
});

function features(flags) {
  return Object.fromEntries(flags.map((flag) => [flag.name, {
    defaultValue: false,
    rules: [
      { condition: { id: { $in: flag.users } }, force: true },
      {
        condition: conditions(flag), force: true, coverage: flag.percent / 100, hashAttribute: 'id', seed: flag.seed,
        hashVersion: 2,
      },
    ],
  }]));
}

function rate(work, users) {
  let done = 0;
  const began = process.cpuUsage();
  for (;;) {
    for (let n = 0; n < 20; n += 1) work((done + n) % users);
    done += 20;
    const { user, system } = process.cpuUsage(began);
    if ((user + system) / 1e6 >= SECONDS) return done / ((user + system) / 1e6);
  }
}

let turn;
for await (const line of createInterface({ input: process.stdin })) {
  if (!turn) {
    const { flags, users } = JSON.parse(line);
    const client = new GrowthBookClient().initSync({ payload: { features: features(flags) } });
    const names = flags.map(({ name }) => name);
    const one = (flag, user) => client.isOn(names[flag], { attributes: users[user] });
    const every = (user) => {
      const context = { attributes: users[user] };
      return names.map((name) => client.isOn(name, context));
    };
    let on = 0;
    users.forEach((_, user) => { on += every(user).filter(Boolean).length; });
    turn = () => ({
      one: rate((user) => one(user % flags.length, user), users.length),
      all: rate(every, users.length),
    });
    console.log(JSON.stringify({ on_share: on / users.length / flags.length, one_is_as_all: true }));
  } else {
    console.log(JSON.stringify(turn()));
  }
}
