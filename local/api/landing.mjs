export class Landing { async handle() {} }
