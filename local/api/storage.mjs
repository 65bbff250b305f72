export class Storage { async handle() {} failure(e) { return e } }
